//! Futures for any runtime, or for none: the engine brings no executor and asks for none.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use fanlog::{Config, ConsumerOptions, Engine, Error, Message};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Engine::open(dir.path(), Config::default())?;
    engine.declare_queue("greetings")?;
    let consumer = engine.consume("greetings", ConsumerOptions::default())?;
    let reader = thread::spawn(move || {
        block_on(async {
            let delivery = consumer.recv_async().await?;
            println!("got {}", String::from_utf8_lossy(delivery.payload()));
            delivery.ack()?.durable().await
        })
    });
    block_on(async {
        let publisher = engine.publisher();
        let message = Message::new("", "greetings", b"hello");
        let ticket = publisher.publish_async(&message).await?;
        println!("confirmed at offset {}", ticket.confirmed().await?.first_offset);
        Ok::<(), Error>(())
    })?;
    Ok(reader.join().expect("no panic")?)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is: polls, and sleeps until it is woken.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
