//! Every call in sequences, against the reference broker of the workspace's model test
//! (`tests/model/`): times to live, lengths, priorities, delays, dead letters, delivery limits,
//! transient messages, transactions, publishers with numbers, purges, crashes. Each two bytes are the
//! chance by which that test chooses one call, so what reaches new code is kept and changed further.
#![no_main]
#![allow(dead_code, unused_imports, reason = "some of the model is for its own test alone")]

// The modules of the test, whichever there are: `build.rs` lists them.
include!(concat!(env!("OUT_DIR"), "/model.rs"));

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::{broker::Broker, machine::Machine};

/// Most calls of a sequence.
const CALLS_MAX: usize = 80;

/// What `strategy` gives under a seed of two bytes; nothing if it gives up.
fn draw<T: Strategy>(strategy: &T, seed: [u8; 2]) -> Option<T::Value> {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&seed);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { failure_persistence: None, ..Config::default() };
    let tree = strategy.new_tree(&mut TestRunner::new_with_rng(config, rng)).ok()?;
    Some(tree.current())
}

// Two bytes are one call: so a sequence with a call more, or with another one, is a small change.
libfuzzer_sys::fuzz_target!(|seeds: Vec<[u8; 2]>| {
    let mut seeds = seeds.into_iter();
    let Some(mut broker) = draw(&Broker::init_state(), seeds.next().unwrap_or_default()) else {
        return;
    };
    let mut machine = Machine::init_test(&broker);
    for seed in seeds.take(CALLS_MAX) {
        let Some(call) = draw(&Broker::transitions(&broker), seed) else { continue };
        if !Broker::preconditions(&broker, &call) {
            continue;
        }
        broker = <Broker as ReferenceStateMachine>::apply(broker, &call);
        machine = <Machine as StateMachineTest>::apply(machine, &broker, call);
        Machine::check_invariants(&machine, &broker);
    }
    Machine::teardown(machine, broker);
});
