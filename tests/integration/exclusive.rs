//! Who may consume beside whom: tags are unique, and an exclusive consumer is alone.

use fanlog::{ConsumerOptions, Engine, Error, ErrorKind, Result};

use crate::support::{consume, next, publish, with_jobs};

fn tagged(tag: &str) -> ConsumerOptions {
    ConsumerOptions { tag: tag.into(), ..ConsumerOptions::default() }
}

fn exclusive(tag: &str) -> ConsumerOptions {
    ConsumerOptions { exclusive: true, ..tagged(tag) }
}

#[track_caller]
fn in_use<T: std::fmt::Debug>(refused: Result<T>) -> (String, bool) {
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let Error::InUse { queue, holder, exclusive } = error else { panic!("{error}") };
    assert_eq!(queue, "jobs");
    (holder, exclusive)
}

fn consumers(engine: &Engine) -> usize {
    engine.queue("jobs").unwrap().consumers
}

#[test]
fn a_tag_in_use_is_refused_and_free_again_when_its_consumer_is_gone() {
    let (_machine, engine) = with_jobs();
    engine.declare_queue("other").unwrap();
    let first = engine.consume("jobs", tagged("worker")).unwrap();
    let error = engine.consume("jobs", tagged("worker")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let Error::TagInUse { queue, tag } = &error else { panic!("{error}") };
    assert_eq!((&**queue, &**tag), ("jobs", "worker"));
    assert!(error.to_string().contains("worker") && error.to_string().contains("jobs"));
    assert_eq!(consumers(&engine), 1);
    // Tags of another queue are no matter.
    engine.consume("other", tagged("worker")).unwrap();
    publish(&engine, "jobs", b"a");
    next(&first).ack().unwrap();
    drop(first);
    engine.consume("jobs", tagged("worker")).unwrap();
}

#[test]
fn a_tag_that_is_made_up_is_not_one_that_somebody_chose() {
    let (_machine, engine) = with_jobs();
    let made_up = consume(&engine, "jobs", 1).tag().to_owned();
    let number: u64 = made_up.rsplit('-').next().unwrap().parse().unwrap();
    let taken: Vec<_> = (number + 1..number + 4)
        .map(|next| engine.consume("jobs", tagged(&format!("consumer-{next}"))).unwrap())
        .collect();
    let other = consume(&engine, "jobs", 1);
    assert!(taken.iter().all(|one| one.tag() != other.tag()));
    assert_eq!(consumers(&engine), 4);
}

#[test]
fn an_exclusive_consumer_is_refused_while_there_are_others() {
    let (_machine, engine) = with_jobs();
    let one = engine.consume("jobs", tagged("one")).unwrap();
    let two = engine.consume("jobs", tagged("two")).unwrap();
    assert_eq!(in_use(engine.consume("jobs", exclusive("me"))), ("one".to_owned(), false));
    drop(one);
    assert_eq!(in_use(engine.consume("jobs", exclusive("me"))), ("two".to_owned(), false));
    drop(two);
    assert_eq!(engine.consume("jobs", exclusive("me")).unwrap().tag(), "me");
}

#[test]
fn others_are_refused_while_an_exclusive_consumer_is_there() {
    let (_machine, engine) = with_jobs();
    publish(&engine, "jobs", b"a");
    let alone = engine.consume("jobs", exclusive("alone")).unwrap();
    for options in [tagged("other"), exclusive("too"), ConsumerOptions::default()] {
        assert_eq!(in_use(engine.consume("jobs", options)), ("alone".to_owned(), true));
    }
    let error = engine.consume("jobs", tagged("other")).unwrap_err();
    assert!(error.to_string().contains("alone") && error.to_string().contains("exclusively"));
    assert_eq!(consumers(&engine), 1);
    let held = next(&alone);
    drop(alone);
    // It comes to the next: those that were refused have left nothing behind.
    assert!(next(&engine.consume("jobs", tagged("other")).unwrap()).redelivered());
    drop(held);
}
