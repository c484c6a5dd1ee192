use super::*;
use crate::Value;

fn everything() -> QueueOptions {
    QueueOptions {
        durable: true,
        exclusive: false,
        auto_delete: false,
        expires: Some(Duration::from_millis(1)),
        message_ttl: Some(Duration::ZERO),
        messages_max: Some(0),
        bytes_max: Some(i64::MAX as u64),
        overflow: Overflow::RejectPublishDlx,
        dead_letter_exchange: Some(String::new()),
        dead_letter_key: Some("k".repeat(255)),
        delivery_limit: Some(u32::MAX),
        priority_max: Some(255),
        single_active_consumer: true,
        ack_timeout: Some(Duration::MAX),
        arguments: Table::new().with("x-queue-type", "classic").with("mine", 7_i32),
    }
}

#[test]
fn what_is_written_is_read_again() {
    for options in [QueueOptions::default(), everything()] {
        options.validate().unwrap();
        assert_eq!(QueueOptions::from_arguments(&options.to_arguments()).unwrap(), options);
    }
    assert!(QueueOptions::default().to_arguments().is_empty());
}

#[test]
fn stored_options_have_their_flags_and_plain_ones_take_nothing() {
    assert_eq!(QueueOptions::stored(DURABLE, &[]).unwrap(), None);
    assert_eq!(QueueOptions::default().kept(), None);
    for flags in 0..8 {
        let options = QueueOptions {
            durable: flags & 1 != 0,
            auto_delete: flags & 2 != 0,
            exclusive: flags & 4 != 0,
            ..everything()
        };
        assert_eq!(options.flags(), flags);
        let stored = QueueOptions::stored(flags, options.to_arguments().as_bytes()).unwrap();
        assert_eq!(*stored.unwrap(), options);
    }
}

#[track_caller]
fn refused(name: &str, value: Value<'_>, shown: &str) {
    let table = Table::new().with("mine", true).with(name, value);
    let error = QueueOptions::from_arguments(&table).unwrap_err();
    let Error::Argument { argument, found, .. } = error else { panic!("{error}") };
    assert_eq!((argument.as_str(), found.as_str()), (name, shown));
}

#[test]
fn a_wrong_type_or_range_names_argument_and_value() {
    refused("x-message-ttl", Value::I32(-1), "-1");
    refused("x-message-ttl", "soon".into(), "\"soon\"");
    refused("x-message-ttl", Value::I64(i64::MAX), "9223372036854775807");
    refused("x-expires", Value::U8(0), "0");
    refused("x-max-length", Value::F64(1.5), "F64(1.5)");
    refused("x-max-length-bytes", Value::Void, "Void");
    refused("x-overflow", "explode".into(), "\"explode\"");
    refused("x-dead-letter-exchange", Value::I32(1), "1");
    refused("x-dead-letter-routing-key", "alone".into(), "\"alone\"");
    refused("x-delivery-limit", Value::I64(1 << 32), "4294967296");
    refused("x-max-priority", Value::I16(256), "256");
    refused("x-max-priority", Value::I16(0), "0");
    refused("x-single-active-consumer", Value::I8(1), "1");
    refused("x-consumer-timeout", Value::I64(0), "0");
    refused("x-dead-letter-exchange", "e".repeat(256).as_str().into(), "256 bytes long");
}

#[test]
fn integers_of_every_width_are_numbers() {
    for value in [Value::I8(9), Value::U8(9), Value::I16(9), Value::U16(9), Value::U32(9)] {
        let table = Table::new().with("x-max-length", value);
        assert_eq!(QueueOptions::from_arguments(&table).unwrap().messages_max, Some(9));
    }
}

#[test]
fn a_field_that_can_not_be_stored_is_refused() {
    let plain = QueueOptions::default;
    let wrong = [
        QueueOptions { expires: Some(Duration::ZERO), ..plain() },
        QueueOptions { message_ttl: Some(Duration::from_micros(1)), ..plain() },
        QueueOptions { message_ttl: Some(Duration::MAX), ..plain() },
        QueueOptions { ack_timeout: Some(Duration::ZERO), ..plain() },
        QueueOptions { messages_max: Some(u64::MAX), ..plain() },
        QueueOptions { priority_max: Some(0), ..plain() },
        QueueOptions { dead_letter_key: Some("k".to_owned()), ..plain() },
        QueueOptions { arguments: Table::new().with("x-expires", 1_i32), ..plain() },
    ];
    for options in wrong {
        let error = options.validate().unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
    }
}

#[test]
fn all_that_is_accepted_fits_into_one_table() {
    let mut options = everything();
    options.dead_letter_exchange = Some("e".repeat(255));
    let known = options.to_arguments().as_bytes().len() - options.arguments.as_bytes().len();
    assert!(known < KNOWN_BYTES_MAX, "{known}");
    options.arguments.push("large", "x".repeat(ARGUMENTS_BYTES_MAX - 2 * KNOWN_BYTES_MAX).as_str());
    options.validate().unwrap();
    assert_eq!(QueueOptions::from_arguments(&options.to_arguments()).unwrap(), options);
    options.arguments.push("more", "x".repeat(KNOWN_BYTES_MAX).as_str());
    assert!(matches!(options.validate(), Err(Error::TooLarge { what: "arguments", .. })));
}

#[test]
fn the_first_difference_is_named_with_both_values() {
    let one = QueueOptions { messages_max: Some(3), ..QueueOptions::default() };
    let shown = |asked: &QueueOptions| one.check_same("q", asked).unwrap_err().to_string();
    one.check_same("q", &one.clone()).unwrap();
    let differs = "queue \"q\" exists with x-max-length = 3, asked for was not set";
    assert_eq!(shown(&QueueOptions::default()), differs);
    let differs = "queue \"q\" exists with durable = true, asked for was false";
    assert_eq!(shown(&QueueOptions { durable: false, ..one.clone() }), differs);
    let more = QueueOptions { arguments: Table::new().with("mine", "x"), ..one.clone() };
    let differs = "queue \"q\" exists with mine = not set, asked for was \"x\"";
    assert_eq!(shown(&more), differs);
}
