//! kafko: one topic with one partition, a group per consumer; each publish synced by hand.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use kafko::{Consumer, Kafko, Partition, Producer};
use tokio::runtime::Runtime;

use super::{Peer, Seen};

const TOPIC: &str = "messages";

struct Topic {
    runtime: Runtime,
    broker: Kafko,
    producer: Producer,
    partition: Arc<Partition>,
    consumers: Vec<(Consumer, bool)>,
}

pub(super) fn open(dir: &Path, consumers: usize) -> Result<Box<dyn Peer>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (broker, producer, partition, consumers) = runtime.block_on(async {
        let broker = Kafko::open(dir).await?;
        if !broker.has_topic(TOPIC).await {
            broker.create_topic(TOPIC).await?;
        }
        let producer = broker.producer_for(TOPIC).await?;
        let topic = broker.topic(TOPIC).await.context("the topic is gone")?;
        let partition = topic.partition(0).context("the partition is gone")?.clone();
        let mut list = Vec::with_capacity(consumers);
        for number in 0..consumers {
            list.push((broker.consumer_for_group(TOPIC, &format!("queue-{number}")).await?, false));
        }
        anyhow::Ok((broker, producer, partition, list))
    })?;
    Ok(Box::new(Topic { runtime, broker, producer, partition, consumers }))
}

impl Peer for Topic {
    fn publish(&mut self, payloads: &[&[u8]]) -> Result<()> {
        let records = payloads.iter().map(|payload| (None, Bytes::copy_from_slice(payload)));
        let records = records.collect();
        self.runtime.block_on(async {
            self.producer.send_batch(records).await?;
            self.partition.sync().await
        })?;
        Ok(())
    }

    fn consume(&mut self, consumer: usize, max: usize, seen: Seen<'_>) -> Result<usize> {
        let end = self.partition.high_water_mark();
        let (consumer, moved) = &mut self.consumers[consumer];
        let mut count = 0;
        while count < max && consumer.position(0) < end {
            let record = self.runtime.block_on(consumer.next_record())?;
            seen(record.value())?;
            count += 1;
            *moved = true;
        }
        Ok(count)
    }

    fn sync_acks(&mut self) -> Result<()> {
        for (consumer, moved) in &mut self.consumers {
            if std::mem::take(moved) {
                self.runtime.block_on(consumer.commit())?;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Topic { runtime, broker, producer, partition, consumers } = *self;
        drop((producer, partition, consumers));
        Ok(runtime.block_on(broker.shutdown())?)
    }
}
