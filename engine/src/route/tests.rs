use fanlog_segment_format::{Offset, control::Control};

use super::*;

/// Applies changes; returns the tables and the control records that were written.
fn applied(tables: &mut Tables, changes: &[Change<'_>]) -> Result<usize> {
    let mut bytes = Vec::new();
    let mut records = Records { bytes: &mut bytes, at: Offset(7) };
    tables.apply_all(changes, &mut records)?;
    let mut rest = &bytes[..];
    let mut count = 0;
    while !rest.is_empty() {
        let (_, length) = Control::decode(rest).unwrap();
        rest = &rest[length..];
        count += 1;
    }
    Ok(count)
}

fn tables() -> Tables {
    let mut tables = Tables::default();
    tables.next.exchange = 1;
    tables.predeclare();
    tables
}

const FANOUT: Change<'_> = Change::DeclareExchange { name: "f", kind: ExchangeKind::Fanout };
const DIRECT: Change<'_> = Change::DeclareExchange { name: "d", kind: ExchangeKind::Direct };
const QUEUE: Change<'_> = Change::declare_queue("q");

fn bind<'a>(queue: &'a str, exchange: &'a str, routing_key: &'a str) -> Change<'a> {
    Change::Bind { queue, exchange, routing_key }
}

fn unbind<'a>(queue: &'a str, exchange: &'a str, routing_key: &'a str) -> Change<'a> {
    Change::Unbind { queue, exchange, routing_key }
}

const TOPIC: Change<'_> = Change::DeclareExchange { name: "t", kind: ExchangeKind::Topic };

/// Whether a message with this exchange and key would reach a queue.
fn routes(tables: &Tables, exchange: &str, key: &str) -> bool {
    !tables.matched(exchange, key, &[]).unwrap().groups.is_empty()
}

#[test]
fn a_fanout_exchange_does_not_look_at_the_key_and_a_direct_one_does() {
    let mut tables = tables();
    applied(&mut tables, &[FANOUT, DIRECT, QUEUE, bind("q", "f", "a"), bind("q", "d", "a")])
        .unwrap();
    assert!(routes(&tables, "f", "a") && routes(&tables, "f", "b"));
    assert!(routes(&tables, "d", "a") && !routes(&tables, "d", "b"));
}

/// As in `RabbitMQ`: whoever undoes one of two bindings still has the other.
#[test]
fn bindings_of_a_fanout_exchange_with_other_keys_are_others() {
    let mut tables = tables();
    applied(&mut tables, &[FANOUT, QUEUE, bind("q", "f", "a"), bind("q", "f", "b")]).unwrap();
    assert_eq!(tables.list_bindings().len(), 2);
    applied(&mut tables, &[unbind("q", "f", "a")]).unwrap();
    assert!(routes(&tables, "f", "a"));
    assert!(matches!(applied(&mut tables, &[unbind("q", "f", "a")]), Err(Error::NotFound { .. })));
    applied(&mut tables, &[unbind("q", "f", "b")]).unwrap();
    assert!(!routes(&tables, "f", "a"));
}

#[test]
fn the_default_exchange_reaches_every_queue_by_its_name_and_nothing_else() {
    let mut tables = tables();
    applied(&mut tables, &[QUEUE]).unwrap();
    assert!(routes(&tables, "", "q") && !routes(&tables, "", "p"));
    for change in [bind("q", "", "q"), unbind("q", "", "q"), Change::DeleteExchange { name: "" }] {
        assert!(matches!(applied(&mut tables, &[change]), Err(Error::Refused { .. })));
    }
}

#[test]
fn what_exists_alike_writes_nothing_and_what_differs_is_named() {
    let mut tables = tables();
    assert_eq!(applied(&mut tables, &[FANOUT, QUEUE, bind("q", "f", "")]).unwrap(), 4);
    assert_eq!(applied(&mut tables, &[FANOUT, QUEUE, bind("q", "f", "")]).unwrap(), 0);
    let other = Change::DeclareExchange { name: "f", kind: ExchangeKind::Direct };
    let text = applied(&mut tables, &[other]).unwrap_err().to_string();
    assert_eq!(text, "exchange \"f\" exists with kind = fanout, asked for was direct");
}

#[test]
fn unbound_and_deleted_queues_are_not_reached_any_more() {
    let mut tables = tables();
    applied(&mut tables, &[DIRECT, QUEUE, bind("q", "d", "a"), bind("q", "d", "b")]).unwrap();
    assert_eq!(applied(&mut tables, &[unbind("q", "d", "a")]).unwrap(), 1);
    assert!(!routes(&tables, "d", "a") && routes(&tables, "d", "b"));
    assert!(matches!(applied(&mut tables, &[unbind("q", "d", "a")]), Err(Error::NotFound { .. })));
    applied(&mut tables, &[Change::DeleteQueue { name: "q" }]).unwrap();
    assert!(!routes(&tables, "d", "b") && !routes(&tables, "", "q"));
    assert!(tables.list_bindings().is_empty());
}

#[test]
fn a_list_of_changes_is_made_as_a_whole_or_not_at_all() {
    let lists: [&[Change<'_>]; 6] = [
        &[QUEUE, bind("q", "nowhere", "")],
        &[FANOUT, QUEUE, bind("q", "f", ""), Change::DeleteQueue { name: "q" }, bind("q", "f", "")],
        &[FANOUT, Change::DeclareExchange { name: "f", kind: ExchangeKind::Direct }],
        &[FANOUT, QUEUE, bind("q", "f", ""), unbind("q", "f", ""), unbind("q", "f", "")],
        &[FANOUT, Change::DeleteExchange { name: "f" }, Change::DeleteExchange { name: "f" }],
        &[QUEUE, Change::declare_queue("")],
    ];
    for list in lists {
        let mut tables = tables();
        assert!(applied(&mut tables, list).is_err(), "{list:?}");
        assert!(tables.list_queues().is_empty() && tables.list_exchanges().is_empty(), "{list:?}");
    }
    let mut tables = tables();
    let list = [FANOUT, QUEUE, bind("q", "f", ""), unbind("q", "f", ""), bind("q", "f", "")];
    applied(&mut tables, &list).unwrap();
    assert_eq!(tables.list_bindings().len(), 1);
}

#[test]
fn replaying_the_records_of_changes_makes_the_same_tables() {
    let mut tables = tables();
    let mut bytes = Vec::new();
    let other = Change::declare_queue("p");
    let changes = [
        FANOUT,
        DIRECT,
        QUEUE,
        other,
        bind("q", "f", ""),
        bind("p", "f", ""),
        bind("q", "d", "a"),
        unbind("q", "f", ""),
        Change::DeleteExchange { name: "d" },
        Change::DeleteQueue { name: "q" },
    ];
    let mut records = Records { bytes: &mut bytes, at: Offset(0) };
    tables.apply_all(&changes, &mut records).unwrap();
    let mut again = Tables::default();
    again.predeclare();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (control, length) = Control::decode(rest).unwrap();
        again.replay(&control).unwrap();
        rest = &rest[length..];
    }
    again.recovered();
    assert_eq!(again.list_queues(), tables.list_queues());
    assert_eq!(again.list_exchanges(), tables.list_exchanges());
    assert_eq!(again.list_bindings(), tables.list_bindings());
    assert_eq!(again.next, tables.next);
}

#[test]
fn a_group_gets_a_route_once_and_keeps_it() {
    let mut tables = tables();
    applied(&mut tables, &[FANOUT, QUEUE, bind("q", "f", "")]).unwrap();
    let matched = tables.matched("f", "", &[]).unwrap();
    assert_eq!(tables.route_of(&matched, false), None);
    let routed = tables.define_route(&matched, false).unwrap();
    assert_eq!(
        tables.route_of(&tables.matched("f", "other key", &[]).unwrap(), false),
        Some(routed)
    );
}

#[test]
fn a_remembered_route_is_found_until_another_takes_its_slot() {
    let mut cache = RouteCache::default();
    let routed = |route| Routed {
        route: RouteId(route),
        exchange: ExchangeId(1),
        version: 3,
        holds: Holds::ForKey,
        gates: None,
    };
    cache.remember(Entry::new("x", "a", routed(1)));
    assert_eq!(cache.find("x", "a"), Some(&routed(1)));
    assert_eq!(cache.find("xa", ""), None);
    for key in 0..1000 {
        cache.remember(Entry::new("x", &key.to_string(), routed(key)));
        assert_eq!(cache.find("x", &key.to_string()), Some(&routed(key)));
    }
}

#[test]
fn a_publisher_with_many_keys_remembers_most_of_them_and_one_with_very_many_only_so_many() {
    let routed = |version| Routed {
        route: RouteId(1),
        exchange: ExchangeId(1),
        version,
        holds: Holds::ForKey,
        gates: None,
    };
    let found = |keys: u32, rounds: u32| {
        let mut cache = RouteCache::default();
        for _ in 0..rounds {
            for key in 0..keys {
                cache.remember(Entry::new("x", &key.to_string(), routed(1)));
            }
        }
        (0..keys).filter(|key| cache.find("x", &key.to_string()).is_some()).count()
    };
    let (many, very_many) = (found(1000, 8), found(100_000, 1));
    assert!(many > 750, "{many} of 1000");
    assert!((2000..=4096).contains(&very_many), "{very_many}");
}

#[test]
fn the_shared_cache_forgets_all_when_the_topology_changes() {
    let cache = SharedRoutes::default();
    let routed = |version| Routed {
        route: RouteId(1),
        exchange: ExchangeId(1),
        version,
        holds: Holds::ForKey,
        gates: None,
    };
    for key in 0..100 {
        cache.remember(Entry::new("x", &key.to_string(), routed(3)));
    }
    let found =
        |key: &str, version| cache.find("x", key, version).map(|entry| entry.routed.clone());
    assert!((0..100).all(|key| found(&key.to_string(), 3) == Some(routed(3))));
    assert_eq!(found("1", 2), None);
    assert_eq!(found("1", 4), None);
    for key in 0..100_u32 {
        cache.remember(Entry::new("x", &format!("new {key}"), routed(4)));
    }
    assert_eq!(found("new 7", 4), Some(routed(4)));
    // One that was slow to be remembered does no harm.
    cache.remember(Entry::new("x", "1", routed(3)));
    assert_eq!(found("1", 3), None);
}

#[test]
fn a_route_is_the_set_of_rules_that_match_and_of_one_set_there_is_one_route() {
    let mut tables = tables();
    let p = Change::declare_queue("p");
    let binds =
        [bind("q", "t", "a.*"), bind("p", "t", "#"), bind("q", "t", "#"), bind("q", "t", "b")];
    applied(&mut tables, &[TOPIC, QUEUE, p]).unwrap();
    applied(&mut tables, &binds).unwrap();
    let matched = |tables: &Tables, key: &str| tables.matched("t", key, &[]).unwrap();
    assert_eq!(matched(&tables, "a.x").groups.len(), 2);
    assert_eq!(matched(&tables, "a.x"), matched(&tables, "a.y"));
    assert_eq!(matched(&tables, "c").groups.len(), 1);
    let routed = tables.define_route(&matched(&tables, "a.x"), false).unwrap();
    assert_eq!(tables.route_of(&matched(&tables, "a.y"), false), Some(routed));
    assert_eq!(tables.route_of(&matched(&tables, "b"), false), None);
    // With its last queue a rule goes, and comes back as another.
    applied(&mut tables, &[unbind("q", "t", "a.*")]).unwrap();
    assert_eq!(matched(&tables, "a.x").groups.len(), 1);
    applied(&mut tables, &[bind("q", "t", "a.*")]).unwrap();
    assert_eq!(tables.route_of(&matched(&tables, "a.x"), false), None);
}

#[test]
fn routes_of_rules_that_are_gone_are_forgotten() {
    let mut tables = tables();
    applied(&mut tables, &[TOPIC, QUEUE, bind("q", "t", "#")]).unwrap();
    for round in 0..5000 {
        let key = format!("k{round}");
        applied(&mut tables, &[bind("q", "t", &key)]).unwrap();
        let matched = tables.matched("t", &key, &[]).unwrap();
        assert_eq!(matched.groups.len(), 2);
        tables.define_route(&matched, false).unwrap();
        applied(&mut tables, &[unbind("q", "t", &key)]).unwrap();
    }
    assert!(tables.routes.len() < 2100, "{}", tables.routes.len());
}

#[test]
fn a_call_that_fails_at_its_end_leaves_the_tables_as_they_were() {
    let mut tables = tables();
    let p = Change::declare_queue("p");
    let before = [FANOUT, DIRECT, TOPIC, QUEUE, p, bind("q", "f", ""), bind("q", "d", "a")];
    applied(&mut tables, &before).unwrap();
    applied(&mut tables, &[bind("p", "t", "x.#"), bind("q", "t", "x.#")]).unwrap();
    let matches = |tables: &Tables| {
        ["a", "x", "x.y", "z"].map(|key| {
            ["f", "d", "t", ""].map(|exchange| tables.matched(exchange, key, &[]).unwrap())
        })
    };
    let shown = |tables: &Tables| {
        (matches(tables), tables.list_queues(), tables.list_exchanges(), tables.list_bindings())
    };
    let (was, next) = (shown(&tables), tables.next);
    let r = Change::declare_queue("r");
    let failing = [
        Change::DeleteExchange { name: "t" },
        r,
        bind("r", "f", ""),
        unbind("q", "f", ""),
        Change::DeleteQueue { name: "q" },
        QUEUE,
        TOPIC,
        bind("q", "t", "z"),
        Change::DeleteExchange { name: "f" },
        bind("q", "f", ""),
    ];
    assert!(matches!(applied(&mut tables, &failing), Err(Error::NotFound { .. })));
    assert_eq!(shown(&tables), was);
    assert_eq!(tables.next, next);
}
