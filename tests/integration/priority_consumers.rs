//! Shares: equal among equals, all to the highest priority that has credit.

use fanlog::{Consumer, ConsumerOptions, Delivery, Engine};

use crate::support::{consume, next, nothing, publish_numbers, ready, with_jobs};

fn with_priority(engine: &Engine, priority: i32, prefetch: u32) -> Consumer {
    let options = ConsumerOptions { priority, ..ConsumerOptions::prefetch(prefetch) };
    engine.consume("jobs", options).unwrap()
}

/// What comes to a consumer now, as far as its credit goes; it keeps that.
fn kept(consumer: &Consumer) -> Vec<u64> {
    let came = |delivery: Delivery| (delivery.offset().0, delivery.keep()).0;
    ready(consumer).into_iter().map(came).collect()
}

#[test]
fn the_highest_priority_gets_all_until_its_credit_is_used_up() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 10);
    let low = with_priority(&engine, -1, 3);
    let high = with_priority(&engine, 10, 2);
    let middle = consume(&engine, "jobs", 4);
    assert_eq!(kept(&low), [6, 7, 8]);
    assert_eq!(kept(&middle), [2, 3, 4, 5]);
    let first = next(&high);
    assert_eq!(first.offset().0, 0);
    // As soon as it has credit again it is the next to be served.
    first.ack().unwrap();
    assert_eq!(kept(&high), [1, 9]);
    nothing(&low);
}

/// Each round the high one gets one message and the equals one more: by turns, though the high one is
/// dealt to in between.
#[test]
fn equals_take_turns_at_each_priority_whatever_the_others_do() {
    let (_machine, engine) = with_jobs();
    let high = with_priority(&engine, 5, 1);
    let equals = [consume(&engine, "jobs", 400), consume(&engine, "jobs", 400)];
    for round in 0..100 {
        publish_numbers(&engine, "jobs", 2);
        let delivery = next(&high);
        assert_eq!(delivery.offset().0, 2 * round);
        delivery.ack().unwrap();
        let shares = equals.each_ref().map(|one| kept(one).len());
        assert_eq!(shares, if round % 2 == 0 { [1, 0] } else { [0, 1] });
    }
}

#[test]
fn equal_consumers_with_credit_get_equal_shares() {
    let (_machine, engine) = with_jobs();
    let consumers: Vec<Consumer> = (0..5).map(|_| consume(&engine, "jobs", 20)).collect();
    let mut shares = [0; 5];
    for _ in 0..20 {
        publish_numbers(&engine, "jobs", 50);
        for (share, consumer) in shares.iter_mut().zip(&consumers) {
            for delivery in ready(consumer) {
                delivery.ack().unwrap();
                *share += 1;
            }
        }
    }
    assert_eq!(shares, [200; 5]);
}

#[test]
fn a_slow_consumer_with_a_full_hand_holds_back_no_other() {
    let (_machine, engine) = with_jobs();
    publish_numbers(&engine, "jobs", 1000);
    let slow = consume(&engine, "jobs", 3);
    let others = [consume(&engine, "jobs", 10), consume(&engine, "jobs", 10)];
    let held = next(&slow);
    let mut done = [0, 0];
    loop {
        let before = done;
        for (done, other) in done.iter_mut().zip(&others) {
            if let Some(delivery) = other.try_recv().unwrap() {
                delivery.ack().unwrap();
                *done += 1;
            }
        }
        if done == before && !engine.step_commit() {
            break;
        }
    }
    // All but what the slow one has; and the two had the same.
    assert_eq!(done.iter().sum::<usize>(), 997);
    assert!(done[0].abs_diff(done[1]) <= 10, "{done:?}");
    assert_eq!(engine.queue("jobs").unwrap().unacked, 3);
    drop(held);
}

#[test]
fn a_turn_is_kept_when_others_leave() {
    let (_machine, engine) = with_jobs();
    let mut consumers: Vec<Consumer> = (0..4).map(|_| consume(&engine, "jobs", 10)).collect();
    publish_numbers(&engine, "jobs", 2);
    assert_eq!(kept(&consumers[0]), [0]);
    // What the first had goes to the third, whose turn it is; then it is the fourth's.
    drop(consumers.remove(0));
    assert_eq!(kept(&consumers[1]), [0]);
    publish_numbers(&engine, "jobs", 2);
    let shares: Vec<Vec<u64>> = consumers.iter().map(kept).collect();
    assert_eq!(shares, [vec![1, 3], vec![], vec![2]]);
}

#[test]
fn a_consumer_of_low_priority_wakes_for_what_the_high_one_has_no_credit_for() {
    let engine = crate::support::threaded();
    engine.declare_queue("jobs").unwrap();
    let high = with_priority(&engine, 1, 1);
    let low = with_priority(&engine, 0, 10);
    let waiting = crate::support::start(move || low.recv().map(|one| one.offset().0).unwrap());
    publish_numbers(&engine, "jobs", 2);
    assert_eq!(waiting.join(), 1);
    drop(high);
}
