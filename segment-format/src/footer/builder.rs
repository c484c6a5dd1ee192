//! Gathers what a footer lists while a segment is written.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::layout::{Counts, Sections, encode_trailer};
use super::{DUE_EXPIRY, FooterBatch, FooterLayout, ROUTE_DENSE};
use crate::layout::{BLOCK_BYTES, FOOTER_HEAD_BYTES};
use crate::number::{u32_of, u64_of, usize_of, usize_saturating};
use crate::wire::SliceWriter;
use crate::{BatchNumber, Offset, RouteId, SegmentHeader};

/// Builds the footer of one segment. Uses eight bytes of memory a message.
#[derive(Debug, Clone)]
pub struct FooterBuilder {
    header: SegmentHeader,
    batches: Vec<FooterBatch>,
    positions: Vec<u32>,
    /// Distances from the first offset; empty as long as there is no gap.
    deltas: Vec<u32>,
    /// For each message the place of its route in `routes`.
    message_routes: Vec<u32>,
    routes: Vec<Route>,
    places: HashMap<u32, u32, BuildHasherDefault<RouteHasher>>,
    /// The route of the last message: mostly that of the next, too.
    last_place: u32,
    /// Time, message, and whether it is that of its expiry.
    dues: Vec<(u64, u32, bool)>,
    /// Of each message, up to the last that has one; empty as long as none has.
    priorities: Vec<u8>,
    controls: Vec<u32>,
    end_offset: Offset,
    times_us: Option<(u64, u64)>,
    log_end: u64,
    last_batch: BatchNumber,
    checksum: u32,
}

#[derive(Debug, Clone, Copy)]
struct Route {
    id: RouteId,
    messages: u32,
    bytes: u64,
}

impl FooterBuilder {
    /// Starts the footer of a segment without batches.
    pub fn new(header: &SegmentHeader) -> Self {
        Self {
            header: *header,
            batches: Vec::new(),
            positions: Vec::new(),
            deltas: Vec::new(),
            message_routes: Vec::new(),
            routes: Vec::new(),
            places: HashMap::default(),
            last_place: 0,
            dues: Vec::new(),
            priorities: Vec::new(),
            controls: Vec::new(),
            end_offset: header.first_offset,
            times_us: None,
            log_end: u64_of(BLOCK_BYTES),
            last_batch: BatchNumber(header.first_batch.0.saturating_sub(1)),
            checksum: header.previous,
        }
    }

    /// Lists a batch: its byte of the file, its size, the number of its first message.
    pub fn batch(
        &mut self,
        position: u32,
        total_bytes: u32,
        first_message: u32,
        number: BatchNumber,
    ) {
        self.batches.push(FooterBatch { position, total_bytes, first_message, number });
    }

    /// Lists a message whose record starts at byte `position` of the file.
    ///
    /// # Panics
    ///
    /// If the offset is below those before it, or more than 2^32 above the segment's first.
    #[inline]
    pub fn message(
        &mut self,
        offset: Offset,
        position: u32,
        route: RouteId,
        payload_bytes: u32,
        time_us: u64,
    ) {
        assert!(offset >= self.end_offset, "offsets increase");
        if offset != self.end_offset || !self.deltas.is_empty() {
            self.message_with_gap(offset);
        }
        self.positions.push(position);
        self.end_offset = offset.next();
        let (least, most) = self.times_us.unwrap_or((time_us, time_us));
        self.times_us = Some((least.min(time_us), most.max(time_us)));
        let place = self.place_of(route);
        self.message_routes.push(place);
        if let Some(route) = self.routes.get_mut(usize_of(place)) {
            route.messages = route.messages.saturating_add(1);
            route.bytes = route.bytes.saturating_add(u64::from(payload_bytes));
        }
    }

    /// Notes the distance of an offset, and those of all before the first gap.
    fn message_with_gap(&mut self, offset: Offset) {
        if self.deltas.is_empty() {
            self.deltas.extend(0..u32_of(self.positions.len()));
        }
        let delta = offset.0.saturating_sub(self.header.first_offset.0);
        self.deltas.push(u32_of(usize_saturating(delta)));
    }

    #[inline]
    fn place_of(&mut self, route: RouteId) -> u32 {
        match self.routes.get(usize_of(self.last_place)) {
            Some(last) if last.id == route => {}
            _ => {
                let next = u32_of(self.routes.len());
                let place = *self.places.entry(route.0).or_insert(next);
                if place == next {
                    self.routes.push(Route { id: route, messages: 0, bytes: 0 });
                }
                self.last_place = place;
            }
        }
        self.last_place
    }

    /// Lists the due time of message number `message`, in microseconds since 1970.
    pub fn due(&mut self, time_us: u64, message: u32) {
        self.dues.push((time_us, message, false));
    }

    /// Lists the expiry time of message number `message`, in microseconds since 1970.
    pub fn expiry(&mut self, time_us: u64, message: u32) {
        self.dues.push((time_us, message, true));
    }

    /// Says that the message listed last has this priority. One of which nothing is said has 0.
    #[inline]
    pub fn priority(&mut self, priority: u8) {
        let last = self.positions.len().saturating_sub(1);
        if priority > 0 && self.priorities.len() <= last {
            self.priorities.resize(last, 0);
            self.priorities.push(priority);
        }
    }

    /// Lists a control record that starts at byte `position` of the file.
    pub fn control(&mut self, position: u32) {
        self.controls.push(position);
    }

    /// Notes where the last batch ends, its number and its checksum.
    pub fn end(&mut self, log_end: u64, last_batch: BatchNumber, checksum: u32) {
        self.log_end = log_end;
        self.last_batch = last_batch;
        self.checksum = checksum;
    }

    /// Makes the segment stand for all offsets below `end`, also where messages are gone.
    pub fn cover_to(&mut self, end: Offset) {
        self.end_offset = self.end_offset.max(end);
    }

    /// How many messages were listed: the number of the next.
    pub fn messages(&self) -> u32 {
        u32_of(self.positions.len())
    }

    /// Returns an upper bound of the footer's size in bytes: a multiple of 4096.
    ///
    /// Due and expiry times come on top:
    /// [`FOOTER_DUE_BYTES`](crate::layout::FOOTER_DUE_BYTES) each; and, if any message has a
    /// priority, a byte for each message and at most eight to align them.
    pub fn projected_bytes(
        messages: usize,
        batches: usize,
        controls: usize,
        routes: usize,
    ) -> usize {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Sections::of(&Counts {
            batches: count(batches),
            messages: count(messages),
            dense: false,
            routes: count(routes),
            listed: count(messages),
            controls: count(controls),
            dues: 0,
            priorities: false,
        })
        .footer_bytes()
    }

    /// Returns the size that [`encode`](Self::encode) would give now, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        Sections::of(&self.counts()).footer_bytes()
    }

    /// Returns the byte of the file at which the footer belongs: such that it ends where the file
    /// was prepared to end, or right behind the last batch, if there is no room for that.
    pub fn start(&self) -> u64 {
        let block = u64_of(BLOCK_BYTES);
        let blocks = self.header.file_bytes.checked_div(block).unwrap_or(0);
        let file_end = blocks.saturating_mul(block);
        let log_end = self.log_end.next_multiple_of(block);
        log_end.max(file_end.saturating_sub(u64_of(self.encoded_bytes())))
    }

    /// Returns the footer, trailer included, to be written at [`start`](Self::start).
    ///
    /// A multiple of 4096 bytes. The file must end where the footer does.
    pub fn encode(mut self) -> Vec<u8> {
        self.dues.sort_unstable();
        let start = self.start();
        let counts = self.counts();
        let sections = Sections::of(&counts);
        let (min_time_us, max_time_us) = self.times_us.unwrap_or_default();
        let layout = FooterLayout {
            counts,
            sections,
            footer_bytes: sections.footer_bytes(),
            first_offset: self.header.first_offset,
            end_offset: self.end_offset,
            log_end: self.log_end,
            last_batch: self.last_batch,
            checksum: self.checksum,
            min_time_us,
            max_time_us,
        };
        let mut footer = vec![0; layout.footer_bytes];
        let (head, _) = footer.split_at_mut(FOOTER_HEAD_BYTES);
        layout.encode(&self.header, head);
        self.encode_sections(&sections, &mut footer);
        encode_trailer(&self.header, start, &mut footer);
        footer
    }

    fn counts(&self) -> Counts {
        let messages = self.messages();
        let listed = self.routes.iter().map(|route| route.messages);
        let listed = listed.filter(|count| *count != messages);
        Counts {
            batches: u32_of(self.batches.len()),
            messages,
            dense: self.deltas.is_empty(),
            routes: u32_of(self.routes.len()),
            listed: listed.fold(0, u32::saturating_add),
            controls: u32_of(self.controls.len()),
            dues: u32_of(self.dues.len()),
            priorities: !self.priorities.is_empty(),
        }
    }

    fn encode_sections(&self, sections: &Sections, footer: &mut [u8]) {
        let mut writer = section(footer, sections.batches);
        for batch in &self.batches {
            writer.u32(batch.position);
            writer.u32(batch.total_bytes);
            writer.u32(batch.first_message);
            writer.u32(0);
            writer.u64(batch.number.0);
        }
        write_numbers(section(footer, sections.positions), &self.positions);
        write_numbers(section(footer, sections.deltas), &self.deltas);
        self.encode_routes(sections, footer);
        write_numbers(section(footer, sections.controls), &self.controls);
        let mut writer = section(footer, sections.dues);
        for (time_us, message, expiry) in &self.dues {
            writer.u64(*time_us);
            writer.u32(*message);
            writer.u32(if *expiry { DUE_EXPIRY } else { 0 });
        }
        section(footer, sections.priorities).bytes(&self.priorities);
    }

    /// Writes the routes in the order of their ids, and the lists of their messages.
    fn encode_routes(&self, sections: &Sections, footer: &mut [u8]) {
        let mut order: Vec<usize> = (0..self.routes.len()).collect();
        order.sort_unstable_by_key(|place| self.routes.get(*place).map(|route| route.id));
        // Where the next message of each route goes; `None` where nothing is listed.
        let mut next: Vec<Option<usize>> = vec![None; self.routes.len()];
        let mut listed = 0_usize;
        let mut writer = section(footer, sections.routes);
        for place in order {
            let (Some(route), Some(slot)) = (self.routes.get(place), next.get_mut(place)) else {
                continue;
            };
            let dense = route.messages == self.messages();
            writer.u32(route.id.0);
            writer.u32(route.messages);
            writer.u64(route.bytes);
            writer.u32(u32_of(listed));
            writer.u32(if dense { ROUTE_DENSE } else { 0 });
            if !dense {
                *slot = Some(listed);
                listed = listed.saturating_add(usize_of(route.messages));
            }
        }
        let mut lists = vec![0; listed];
        for (message, place) in self.message_routes.iter().enumerate() {
            let Some(Some(slot)) = next.get_mut(usize_of(*place)) else { continue };
            if let Some(number) = lists.get_mut(*slot) {
                *number = u32_of(message);
            }
            *slot = slot.saturating_add(1);
        }
        write_numbers(section(footer, sections.lists), &lists);
    }
}

fn section(footer: &mut [u8], start: usize) -> SliceWriter<'_> {
    let (_, section) = footer.split_at_mut(start);
    SliceWriter::new(section)
}

fn write_numbers(mut writer: SliceWriter<'_>, numbers: &[u32]) {
    for number in numbers {
        writer.u32(*number);
    }
}

/// Spreads route ids, which count up, over the table. They come from the engine, not from outside.
#[derive(Debug, Clone, Copy, Default)]
struct RouteHasher(u64);

impl Hasher for RouteHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        let mixed = self.0 ^ u64::from(id);
        self.0 = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
