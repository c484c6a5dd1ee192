//! Histories, late bindings and rewinds by chance, against a model.

use fanlog_tests::past::PastWorld;

fn run(seed: u64, steps: u64) -> PastWorld {
    let mut world = PastWorld::new(seed);
    world.set_up().unwrap();
    for step in 0..steps {
        let acted = world.act();
        acted.unwrap_or_else(|error| panic!("seed {seed}: {}: {error:?}", world.last));
        if step % 4 == 0 {
            world.compare().unwrap();
        }
    }
    world.compare().unwrap();
    world
}

#[test]
fn what_comes_back_is_what_is_kept_and_matches_and_all_counts_agree() {
    let (mut calls, mut messages, mut clamped, mut given_back, mut rewritten) = (0, 0, 0, 0, 0);
    let chosen = std::env::var("FANLOG_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = chosen.map_or(0..12, |seed| seed..seed + 1);
    for seed in seeds {
        println!("seed {seed}");
        let world = run(seed, 600);
        calls += world.brought.0;
        messages += world.brought.1;
        clamped += world.clamped;
        given_back += world.reclaimed.0;
        rewritten += world.reclaimed.1;
    }
    if chosen.is_none() {
        let did = format!("{calls} {messages} {clamped} {given_back} {rewritten}");
        assert!(calls > 200 && messages > 1500 && clamped > 50, "{did}");
        assert!(given_back > 50 && rewritten > 0, "{did}");
    }
}
