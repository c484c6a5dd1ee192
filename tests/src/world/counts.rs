//! What a workload did, so that a test can assert that it did it.

macro_rules! counts {
    ($($name:ident)*) => {
        /// What a workload did, each by its name.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is named by what it counts")]
        pub struct Counts {
            $(pub $name: u64,)*
            pub most_unconfirmed: usize,
        }

        impl Counts {
            /// Adds what another one did.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.most_unconfirmed = self.most_unconfirmed.max(other.most_unconfirmed);
            }
        }
    };
}

counts! {
    published batches buffered transient named repeats resent delayed waited_for_due
    received redelivered letters acks_waited acks_lazy requeued consumers_dropped
    topology_changes checkpoints recycled deleted rewritten merged purges transactions backups
    closes crashes kills
    kept_sectors lost_sectors torn_blocks reordered_writes
    failed_calls poisoned full_disks written_again purged_beside short_writes slow_writes
    rotten_bits lost_writes misdirected_writes misdirected_reads failed_reads
    shortened refused_full by_headers by_alternate passed_away owners_gone bound_late rewound
    fell_back kept_payloads refused reported harmless around_damage
}
