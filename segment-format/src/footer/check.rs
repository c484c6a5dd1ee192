//! The check of a whole footer, done once before it is used.

use super::{DUE_EXPIRY, Footer, FooterBatch, ROUTE_DENSE, STRUCTURE};
use crate::DecodeError;
use crate::layout::{BLOCK_BYTES, RECORD_ALIGN, SEGMENT_HEADER_BYTES};
use crate::number::{u64_of, usize_of};

/// F3: checks every number that is used to find another, and the order that searches rely on.
pub(super) fn check(footer: &Footer<'_>, footer_start: u64) -> Result<(), DecodeError> {
    let layout = footer.layout();
    require(
        layout.log_end <= footer_start && layout.log_end >= u64_of(SEGMENT_HEADER_BYTES),
        "log_end",
        "behind the header and not behind the footer's start",
        layout.log_end,
    )?;
    check_batches(footer)?;
    check_messages(footer)?;
    check_routes(footer)?;
    let mut least = u64_of(SEGMENT_HEADER_BYTES);
    for control in (0..footer.controls()).map(|k| footer.control(k)) {
        check_record_position(control, least, layout.log_end)?;
        least = u64::from(control).saturating_add(1);
    }
    let mut before = (0, 0);
    for k in 0..footer.dues() {
        let (due, kind) = (footer.due(k), footer.due_kind(k));
        let known = due.1 < footer.messages() && due >= before;
        require(known, "due", "increasing, of a message", due.0)?;
        require(kind <= DUE_EXPIRY, "due kind", "due or expiry", kind.into())?;
        before = due;
    }
    Ok(())
}

fn check_batches(footer: &Footer<'_>) -> Result<(), DecodeError> {
    let block = u64_of(BLOCK_BYTES);
    let mut end = u64_of(SEGMENT_HEADER_BYTES);
    let mut before: Option<FooterBatch> = None;
    for batch in (0..footer.batches()).map(|k| footer.batch(k)) {
        let (start, bytes) = (u64::from(batch.position), u64::from(batch.total_bytes));
        let placed = start >= end
            && start.is_multiple_of(block)
            && bytes >= block
            && bytes.is_multiple_of(block)
            && start.saturating_add(bytes) <= footer.log_end();
        require(placed, "batch position", "whole blocks in order", start)?;
        let (least_message, least_number) = before
            .map_or((0, 0), |before| (before.first_message, before.number.0.saturating_add(1)));
        let first = batch.first_message;
        let numbered = first >= least_message && first <= footer.messages();
        require(numbered, "batch first_message", "increasing", first.into())?;
        require(batch.number.0 >= least_number, "batch number", "increasing", batch.number.0)?;
        end = start.saturating_add(bytes);
        before = Some(batch);
    }
    Ok(())
}

fn check_messages(footer: &Footer<'_>) -> Result<(), DecodeError> {
    let layout = footer.layout();
    let mut least = u64_of(SEGMENT_HEADER_BYTES);
    let mut least_offset = layout.first_offset.0;
    for index in 0..footer.messages() {
        let position = footer.position_of(index);
        check_record_position(position, least, layout.log_end)?;
        least = u64::from(position).saturating_add(1);
        let offset = footer.offset_of(index).0;
        require(offset >= least_offset, "offset", "increasing", offset)?;
        least_offset = offset.saturating_add(1);
    }
    let end = layout.end_offset.0;
    require(end >= least_offset, "end_offset", "behind the last message", end)?;
    let times = layout.min_time_us <= layout.max_time_us;
    require(times, "min_time_us", "not more than max_time_us", layout.min_time_us)
}

fn check_record_position(position: u32, least: u64, log_end: u64) -> Result<(), DecodeError> {
    let wide = u64::from(position);
    let placed = wide >= least && wide < log_end && usize_of(position).is_multiple_of(RECORD_ALIGN);
    require(placed, "record position", "aligned and increasing within the log", wide)
}

fn check_routes(footer: &Footer<'_>) -> Result<(), DecodeError> {
    let mut listed = 0_u64;
    let mut messages = 0_u64;
    let mut before = None;
    for k in 0..footer.routes() {
        let (route, start, flags) = footer.route_entry(k);
        let id = u64::from(route.route.0);
        require(before.is_none_or(|before| id > before), "route", "increasing", id)?;
        require(flags & !ROUTE_DENSE == 0, "route flags", "known flags only", flags.into())?;
        require(u64::from(start) == listed, "route list", "behind the one before", start.into())?;
        if route.dense {
            let all = route.messages == footer.messages();
            require(all, "route messages", "all, as it is dense", route.messages.into())?;
        } else {
            listed = listed.saturating_add(u64::from(route.messages));
            require(
                listed <= u64::from(footer.layout().counts.listed),
                "route messages",
                "as many as are listed",
                route.messages.into(),
            )?;
            let mut least = 0;
            for number in (0..route.messages).map(|j| footer.listed(start, j)) {
                let known = number >= least && number < footer.messages();
                require(known, "route list", "increasing message numbers", number.into())?;
                least = number.saturating_add(1);
            }
        }
        messages = messages.saturating_add(u64::from(route.messages));
        before = Some(id);
    }
    let every = messages == u64::from(footer.messages());
    require(every, "route messages", "each message in one route", messages)?;
    let used = listed == u64::from(footer.layout().counts.listed);
    require(used, "listed", "as many as the routes list", listed)
}

fn require(
    holds: bool,
    field: &'static str,
    expected: &'static str,
    found: u64,
) -> Result<(), DecodeError> {
    if holds {
        return Ok(());
    }
    Err(DecodeError::Field { structure: STRUCTURE, position: 0, field, expected, found })
}
