//! The task of the modelled group: it refuses whatever the contract forbids.

use super::*;

/// A sink that buffers, publishes by chance, and checks what it is given.
pub(super) struct Ledger {
    pub(super) model: Model,
    pub(super) failed: Option<String>,
}

#[async_trait]
impl SinkTask for Ledger {
    async fn start(&mut self, context: Arc<dyn SinkContext>, _: &Config) -> Result<()> {
        self.model.lock().context = Some(context);
        Ok(())
    }

    async fn open(&mut self, partitions: &[TopicPartition]) -> Result<Opened> {
        if self.model.fails(30) {
            return Err(ConnectError::retriable("no store"));
        }
        let mut divergences = Positions::new();
        let context = self.model.lock().context.clone().unwrap();
        for partition in partitions.iter().filter(|partition| keeps_position(partition)) {
            let PartitionView { truncated_at, end_offset, .. } = context.partition(partition).await?;
            divergences
                .extend([truncated_at, end_offset].into_iter().flatten().min().map(|at| (partition.clone(), at)));
        }
        let mut shared = self.model.lock();
        let mut starts = Places::new();
        for partition in partitions {
            if let Some(divergence) = divergences.get(partition) {
                shared.durable.get_mut(partition).unwrap().cut(*divergence);
            }
            let place = shared.durable[partition].place();
            let next = if keeps_position(partition) { place.offset } else { -1 };
            if shared.open.insert(partition.clone(), Open { next, sought: false, buffer: Vec::new() }).is_some() {
                shared.refuse(format!("{partition} was opened twice"));
            }
            if keeps_position(partition) {
                starts.insert(partition.clone(), place);
            }
        }
        Ok(starts.into())
    }

    async fn put(&mut self, batches: &[Batch]) -> Result<()> {
        if batches.is_empty() {
            return if self.model.fails(5) { Err(ConnectError::retriable("a tick failed")) } else { Ok(()) };
        }
        let text = shown_batches(batches);
        let fails = self.model.fails(25);
        let publishes = self.model.random.below(100) < 30;
        let mut shared = self.model.lock();
        if let Some(failed) = self.failed.take() {
            // What was revoked, lost or sought meanwhile is left out; the rest comes in the same order.
            if !is_part(&text, &failed) {
                shared.refuse(format!("after '{failed}' failed came '{text}'"));
            }
        }
        if fails {
            self.failed = Some(text);
            return Err(ConnectError::retriable("the store is slow"));
        }
        for batch in batches {
            let Some(open) = shared.open.get_mut(batch.partition()) else {
                shared.refuse(format!("{} was put but is not open", batch.partition()));
                continue;
            };
            if open.next != -1 && open.next != batch.base_offset() {
                let expected = open.next;
                shared.refuse(format!("{text} does not continue {expected}"));
                continue;
            }
            open.next = batch.next_offset();
            open.sought = false;
            let epoch = |value: Option<&[u8]>| i32::from_be_bytes(value.unwrap().try_into().unwrap());
            open.buffer.extend(batch.rows().map(|row| (row.offset(), epoch(row.value()))));
            if publishes {
                shared.publish(batch.partition());
            }
        }
        Ok(())
    }

    async fn flush(&mut self, consumed: &Positions) -> Result<Positions> {
        if self.model.fails(20) {
            return Err(ConnectError::retriable("cannot flush now"));
        }
        let mut shared = self.model.lock();
        let mut durable = Positions::new();
        for (partition, offset) in consumed {
            let next = shared.open.get(partition).map(|open| (open.next, open.sought));
            if next.is_none_or(|(next, sought)| next != *offset && next != -1 && !sought) {
                shared.refuse(format!("{partition} is said to be consumed to {offset}, but {next:?} is"));
            }
            durable.insert(partition.clone(), shared.durable[partition].upto);
        }
        Ok(durable)
    }

    async fn close(&mut self, partitions: &[TopicPartition], why: Closing) -> Result<Positions> {
        let mut shared = self.model.lock();
        let mut durable = Positions::new();
        for partition in partitions {
            if why == Closing::Revoked {
                shared.publish(partition);
                durable.insert(partition.clone(), shared.durable[partition].upto);
            }
            if shared.open.remove(partition).is_none() {
                shared.refuse(format!("{partition} was closed but is not open"));
            }
        }
        Ok(durable)
    }
}

/// True where the words of `part` are words of `whole`, in order.
fn is_part(part: &str, whole: &str) -> bool {
    let mut words = whole.split(' ');
    part.split(' ').take_while(|word| whole.split(' ').any(|known| known == *word)).all(|word| words.any(|w| w == word))
}
