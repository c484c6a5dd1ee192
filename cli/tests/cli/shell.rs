//! The commands for everyday use: set up, fill, drain, look.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::setup::{Ended, Store};

/// A store with a fanout exchange to the queues `billing` and `shipping`, and three messages.
fn orders() -> Store {
    let store = Store::new();
    store.fine("declare DIR queue billing shipping");
    store.fine("declare DIR exchange placed --kind fanout");
    store.fine("declare DIR bind billing placed");
    store.fine("declare DIR bind shipping placed");
    let printed = store.fine_with_input("publish DIR --exchange placed", "one\n\nthree\n");
    assert_eq!(printed, "confirmed 3\n");
    store
}

fn depth(store: &Store, queue: &str) -> u64 {
    let info = &store.json("info DIR --json")[0];
    let queues = info["queues"].as_array().unwrap();
    queues.iter().find(|q| q["name"] == queue).unwrap()["messages"].as_u64().unwrap()
}

#[test]
fn a_fanout_message_reaches_every_queue_and_is_taken_once() {
    let store = orders();
    assert_eq!(store.fine("consume DIR --queue billing"), "one\n\nthree\n");
    assert_eq!(store.fine("consume DIR --queue billing"), "");
    assert_eq!(depth(&store, "shipping"), 3);
    assert_eq!(store.fine("consume DIR --queue shipping"), "one\n\nthree\n");
    assert!(store.fine("verify DIR").starts_with("ok: "));
}

#[test]
fn a_direct_exchange_compares_the_routing_key() {
    let store = Store::new();
    store.fine("declare DIR queue de fr");
    store.fine("declare DIR exchange by-country --kind direct");
    store.fine("declare DIR bind de by-country --key de --key at");
    store.fine("declare DIR bind fr by-country --key fr");
    store.fine_with_input("publish DIR --exchange by-country --key at", "a\n");
    store.fine_with_input("publish DIR --exchange by-country --key fr", "f\n");
    assert_eq!(store.fine("consume DIR --queue de"), "a\n");
    assert_eq!(store.fine("consume DIR --queue fr"), "f\n");
}

#[test]
fn a_topic_exchange_leads_to_another_exchange_or_to_its_alternate() {
    let store = Store::new();
    store.fine("declare DIR queue orders rest");
    store.fine("declare DIR exchange all");
    store.fine("declare DIR exchange lost");
    store.fine("declare DIR exchange events --kind topic --alternate lost");
    store.fine("declare DIR bind-exchange all events --key order.#");
    store.fine("declare DIR bind orders all");
    store.fine("declare DIR bind rest lost");
    store.fine_with_input("publish DIR --exchange events --key order.new", "o\n");
    store.fine_with_input("publish DIR --exchange events --key other", "r\n");
    assert_eq!(store.fine("consume DIR --queue orders"), "o\n");
    assert_eq!(store.fine("consume DIR --queue rest"), "r\n");
}

#[test]
fn options_of_a_queue_are_declared_compared_and_shown() {
    let store = Store::new();
    let declare =
        "declare DIR queue quick --argument x-max-length=1000 --argument x-overflow=drop-head";
    store.fine(&format!("{declare} --auto-delete --argument mine=yes"));
    let options = &store.json("info DIR --json")[0]["queues"][0]["options"];
    assert_eq!(options.to_string(), r#"{"auto-delete":true,"mine":"yes","x-max-length":1000}"#);
    assert!(store.fine("info DIR").contains("auto-delete mine=yes x-max-length=1000"));
    assert!(store.fine("dump DIR").contains(r#"arguments={"mine":"yes","x-max-length":1000}"#));
    let ended = store.run("declare DIR queue quick");
    ended.is_error(2, "mismatch");
    assert!(ended.stderr.contains("exists with auto-delete = true, asked for was false"));
    let ended = store.run("declare DIR queue other --argument x-expires=0");
    ended.is_error(2, "usage");
    assert!(ended.stderr.contains("argument x-expires is 0"));
}

#[test]
fn publish_can_declare_what_it_needs_and_again() {
    let store = Store::new();
    let publish = "publish DIR --exchange placed --declare billing,shipping";
    store.fine_with_input(publish, "one\n");
    store.fine_with_input(publish, "two\n");
    store.fine_with_input("publish DIR --key greetings --declare greetings", "hello\n");
    assert_eq!(store.fine("consume DIR --queue shipping"), "one\ntwo\n");
    assert_eq!(store.fine("consume DIR --queue greetings"), "hello\n");
}

#[test]
fn count_takes_so_many_and_leaves_the_rest() {
    let store = orders();
    assert_eq!(store.fine("consume DIR --queue billing --count 1"), "one\n");
    assert_eq!(depth(&store, "billing"), 2);
    assert_eq!(store.fine("consume DIR --queue billing --count 0"), "");
    assert_eq!(store.fine("consume DIR --queue billing --count 9"), "\nthree\n");
}

#[test]
fn no_ack_leaves_the_messages_unmarked() {
    let store = orders();
    let before = store.files();
    assert_eq!(store.fine("consume DIR --queue billing --no-ack --count 2"), "one\n\n");
    assert_eq!(store.fine("consume DIR --queue billing --no-ack"), "one\n\nthree\n");
    assert_eq!(store.files(), before, "looking wrote something");
    let taken = store.json("consume DIR --queue billing --json");
    assert!(taken.iter().all(|message| message["redelivered"] == false));
}

#[test]
fn json_tells_a_message_apart_from_its_text() {
    let store = Store::new();
    let summary = store.fine_with_input("publish DIR --key q --declare q --json", "a \"b\"\n");
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["confirmed"], 1);
    assert_eq!(summary["failed"], 0);
    let message = &store.json("consume DIR --queue q --json")[0];
    assert_eq!(message["payload"], "a \"b\"");
    assert_eq!(message["routing_key"], "q");
    assert_eq!(message["exchange"], "");
    assert_eq!(message["offset"], summary["first_offset"]);
    assert!(message["published_us"].as_u64().unwrap() > 0);
}

#[test]
fn every_confirm_can_be_printed_with_its_line() {
    let store = Store::new();
    store.fine("declare DIR queue q");
    let printed = store.fine_with_input("publish DIR --key q --confirms", "a\nb\n");
    assert_eq!(printed, "1 0\n2 1\nconfirmed 2\n");
    let printed = store.fine_with_input("publish DIR --key q --confirms --json", "c\n");
    assert_eq!(printed.lines().next().unwrap(), "{\"line\":1,\"offset\":2}");
}

#[test]
fn many_lines_in_flight_keep_their_order() {
    let store = Store::new();
    let lines: String = (0..20_000).fold(String::new(), |lines, i| lines + &format!("line {i}\n"));
    let printed = store.fine_with_input("publish DIR --key q --declare q --window 500", &lines);
    assert_eq!(printed, "confirmed 20000\n");
    assert!(store.fine("consume DIR --queue q") == lines, "other lines, or in another order");
    assert_eq!(depth(&store, "q"), 0);
}

#[test]
fn info_shows_the_whole_store() {
    let store = orders();
    let info = &store.json("info DIR --json")[0];
    assert_eq!(info["clean"], true);
    assert_eq!(info["end_offset"], 3);
    assert!(info["exchanges"].as_array().unwrap().iter().any(|e| e["name"] == "placed"));
    assert!(info["bindings"].as_array().unwrap().iter().any(|b| b["queue"] == "billing"));
    assert!(!info["segments"].as_array().unwrap().is_empty());
    assert!(info["live_bytes"].as_u64().unwrap() > 0);
    let text = store.fine("info DIR");
    for word in ["placed", "fanout", "billing", "shipping", "cleanly", "live", "dead", "active"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}

#[test]
fn declare_and_verify_print_json_too() {
    let store = Store::new();
    assert_eq!(store.json("declare DIR queue a b --json")[0]["names"][1], "b");
    assert_eq!(store.json("declare DIR exchange x --json")[0]["kind"], "fanout");
    assert_eq!(store.json("declare DIR bind a x --json")[0]["declared"], "binding");
    let report = &store.json("verify DIR --json")[0];
    assert_eq!(report["ok"], true);
    assert_eq!(report["problems"].as_array().unwrap().len(), 0);
}

#[test]
fn what_was_not_written_is_not_acked() {
    let store = orders();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = store.start("consume DIR --queue billing", writer.into());
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "a broken pipe is quiet");
    assert_eq!(depth(&store, "billing"), 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_an_error_and_nothing_is_acked() {
    let store = orders();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = store.start("consume DIR --queue billing", full.into());
    let ended = Ended::from(child.wait_with_output().unwrap());
    ended.is_error(5, "io: standard output");
    assert_eq!(depth(&store, "billing"), 3);
}

#[test]
fn follow_sees_what_others_publish_meanwhile() {
    let store = orders();
    let mut follower =
        store.start("consume DIR --queue billing --follow --count 5", Stdio::piped());
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(3).collect::<Vec<_>>(), ["one", "", "three"]);
    publish_when_free(&store, "four\n");
    assert_eq!(lines.next().unwrap(), "four");
    publish_when_free(&store, "five\n");
    assert_eq!(lines.next().unwrap(), "five");
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    assert_eq!(depth(&store, "billing"), 0);
}

/// The follower holds the store for moments; a person would try again too.
fn publish_when_free(store: &Store, lines: &str) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        let ended = store.run_with_input("publish DIR --exchange placed", lines);
        if ended.status == Some(0) {
            return;
        }
        ended.is_error(4, "locked");
    }
    panic!("the follower keeps the store");
}

#[test]
fn a_time_out_ends_the_waiting() {
    let store = orders();
    let words = "consume DIR --queue billing --follow --timeout 300ms";
    assert_eq!(store.fine(words), "one\n\nthree\n");
    assert_eq!(store.fine("consume DIR --queue billing --no-ack --timeout 200ms"), "");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_following_with_a_clean_close() {
    let store = orders();
    let mut follower = store.start("consume DIR --queue billing --follow", Stdio::piped());
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    let interrupt = format!("kill -INT {}", follower.id());
    assert!(std::process::Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    assert_eq!(store.json("info DIR --json")[0]["clean"], true);
}
