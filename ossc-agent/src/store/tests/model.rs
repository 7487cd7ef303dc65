//! The store against a plain model: sets of block numbers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::scratch::{Kind, Scratch, blocks, fill, fill_block, ready_blocks_are_right, version};
use crate::base::FileId;
use crate::store::Store;

const BLOCKS: u32 = 5;

#[derive(Debug, Clone)]
enum Step {
    Commit(u32),
    Fill,
    Persist,
    Publish,
    Seal,
    Forget,
    /// Ends the run and opens again.
    Restart(End),
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// `retire`, then the same boot.
    Clean,
    /// Killed, then the same boot.
    Crash,
    /// Killed, then another boot. (The page cache survives in the test; the store must not count on it.)
    PowerLoss,
    /// `retire`; the object has another ETag afterwards.
    Changed,
}

/// What must be true.
#[derive(Debug, Default, Clone, PartialEq)]
struct Model {
    ready: BTreeSet<u32>,
    sealed: bool,
    visible: bool,
    /// What a crash leaves.
    recorded: BTreeSet<u32>,
    recorded_seal: bool,
    durable: bool,
    /// A complete file of an older version still has the name.
    old_visible: bool,
}

impl Model {
    fn record(&mut self) {
        self.recorded = self.ready.clone();
        self.recorded_seal = self.sealed;
    }

    fn persist(&mut self, kind: Kind) {
        self.record();
        self.durable = self.sealed && kind == Kind::Disk;
    }

    fn restart(&mut self, end: End, kind: Kind) {
        let was_visible = self.visible;
        if matches!(end, End::Clean | End::Changed) {
            self.persist(kind);
        }
        // The record of a version that was never published replaces that of the old one.
        self.old_visible = false;
        match end {
            End::Clean | End::Crash => {}
            End::PowerLoss if self.recorded_seal && self.durable => {}
            End::PowerLoss | End::Changed => {
                self.old_visible = matches!(end, End::Changed) && self.recorded_seal && was_visible;
                *self = Self { old_visible: self.old_visible, ..Self::default() };
            }
        }
        self.ready = self.recorded.clone();
        self.sealed = self.recorded_seal;
        self.visible = self.sealed && was_visible;
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![Just(End::Clean), Just(End::Crash), Just(End::PowerLoss), Just(End::Changed)];
    let step = prop_oneof![
        8 => (0..BLOCKS).prop_map(Step::Commit),
        2 => Just(Step::Fill),
        2 => Just(Step::Persist),
        2 => Just(Step::Publish),
        3 => Just(Step::Seal),
        1 => Just(Step::Forget),
        3 => end.prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..40)
}

fn agree(store: &Store, model: &Model) -> Result<(), TestCaseError> {
    let file = &store.files()[0];
    let missing: Vec<_> = file.ready().missing_runs(0, BLOCKS).flatten().collect();
    let expected: Vec<_> = (0..BLOCKS).filter(|block| !model.ready.contains(block)).collect();
    prop_assert_eq!(missing, expected);
    prop_assert_eq!(file.is_complete(), model.sealed);
    prop_assert_eq!(file.path().exists(), model.visible || model.old_visible);
    prop_assert!(ready_blocks_are_right(file));
    Ok(())
}

fn run(kind: Kind, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let scratch = Scratch::new(kind);
    let (mut boot, mut etag) = (0, 0);
    let mut object = blocks("a", u64::from(BLOCKS));
    let mut model = Model::default();
    let mut store = scratch.open_in("0", std::slice::from_ref(&object));
    for step in steps {
        match step {
            // Writes after completion are dropped, and there is nothing to commit then.
            Step::Commit(block) if !model.sealed => {
                fill_block(&store.files()[0], block);
                model.ready.insert(block);
                model.recorded.insert(block);
            }
            Step::Commit(_) => {}
            Step::Fill => {
                fill(&store.files()[0]);
                model.ready.extend(0..BLOCKS);
                model.recorded.extend(0..BLOCKS);
            }
            Step::Persist => {
                store.persist().unwrap();
                model.persist(kind);
            }
            Step::Publish => {
                store.publish(FileId(0)).unwrap();
                (model.visible, model.old_visible) = (true, false);
            }
            Step::Seal => {
                let full = model.ready.len() == BLOCKS as usize;
                prop_assert_eq!(store.files()[0].seal().is_ok(), full);
                if full && !model.sealed {
                    model.sealed = true;
                    model.durable = false;
                    model.record();
                }
            }
            Step::Forget => {
                store.files()[0].forget_blocks();
                model.ready.clear();
                (model.sealed, model.durable) = (false, false);
                model.record();
            }
            Step::Restart(end) => {
                if matches!(end, End::Clean | End::Changed) {
                    store.retire().unwrap();
                }
                drop(store);
                match end {
                    End::PowerLoss => boot += 1,
                    End::Changed => {
                        etag += 1;
                        object = version(&object, &etag.to_string());
                    }
                    End::Clean | End::Crash => {}
                }
                store = scratch.open_in(&boot.to_string(), std::slice::from_ref(&object));
                model.restart(end, kind);
            }
        }
        agree(&store, &model)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model_on_disk(steps in steps()) {
        run(Kind::Disk, steps)?;
    }

    #[test]
    fn agrees_with_the_model_on_tmpfs(steps in steps()) {
        run(Kind::Tmpfs, steps)?;
    }
}
