//! Competing consumers: workers share a queue; what a worker leaves undone goes to the others.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{thread, time::Duration};

use fanlog::{Config, Consumer, ConsumerOptions, Engine, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(dir.path(), Config::default())?;
    engine.declare_queue("jobs")?;
    // The default exchange, "", routes to the queue that the key names.
    let jobs: Vec<String> = (0..200).map(|n| format!("job {n}")).collect();
    let messages: Vec<Message<'_>> =
        jobs.iter().map(|job| Message::new("", "jobs", job.as_bytes())).collect();
    engine.publisher().publish_batch(&messages)?.wait()?;

    // This worker takes ten jobs and is dropped with all of them unacked.
    let lazy = engine.consume("jobs", ConsumerOptions::prefetch(10))?;
    println!("the lazy one took {}", lazy.recv_batch(10, Duration::from_secs(5))?.keep().len());
    drop(lazy);

    let worker = |name: &str, consumer: &Consumer| -> fanlog::Result<()> {
        let (mut done, mut again) = (0, 0);
        while let Some(job) = consumer.recv_timeout(Duration::from_millis(200))? {
            thread::sleep(Duration::from_millis(1)); // the work
            done += 1;
            again += u32::from(job.redelivered());
            job.ack()?;
        }
        println!("{name} did {done} jobs, {again} of them redelivered");
        Ok(())
    };
    let names = ["ann", "bob", "eve"];
    let consumers = names.map(|_| engine.consume("jobs", ConsumerOptions::prefetch(16)));
    thread::scope(|scope| {
        let start = |(name, consumer)| scope.spawn(move || worker(name, &consumer?));
        let workers: Vec<_> = names.into_iter().zip(consumers).map(start).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    Ok(())
}
