//! Makes a failing plan small: steps are left out, in halves first and one by one in the end, as long as the run fails
//! in the same way. What is printed has the command that runs the small plan again.
//!
//! The same way: the law that is broken says the same in its words; numbers, names and offsets may be others. A plan
//! that came to break another law would explain nothing.

use std::fmt;

use lakeferry_api::simulation::sabotage::Fault;

use crate::plan::Plan;
use crate::run;

/// See the module's documentation.
pub(crate) struct Reduced {
    seed: u64,
    fault: Option<Fault>,
    /// What the whole plan failed with, and of how many steps it is.
    law: String,
    steps: usize,
    /// The numbers of the steps that are left, and what they fail with.
    kept: Vec<usize>,
    last: String,
}

impl Reduced {
    /// `plan` breaks `law`, with `fault` built in.
    pub(crate) fn of(plan: &Plan, law: &str, fault: Option<Fault>) -> Self {
        let steps = plan.steps.len();
        let mut reduced = Self {
            seed: plan.seed,
            fault,
            law: law.to_owned(),
            steps,
            kept: (0..steps).collect(),
            last: law.to_owned(),
        };
        let mut size = steps.div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < reduced.kept.len() {
                if !reduced.does_without(plan, at, size) {
                    at += size;
                }
            }
            size /= 2;
        }
        reduced
    }

    /// Leaves out `size` steps from `at` on, if the rest fails in the same way.
    fn does_without(&mut self, plan: &Plan, at: usize, size: usize) -> bool {
        let rest = self.kept.iter().take(at).chain(self.kept.iter().skip(at + size));
        let rest: Vec<usize> = rest.copied().collect();
        let broken = run(&plan.only(&rest), self.fault).broken;
        let Some(law) = broken.filter(|law| in_words(law) == in_words(&self.law)) else { return false };
        (self.kept, self.last) = (rest, law);
        true
    }
}

impl fmt::Display for Reduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, law, last, .. } = self;
        writeln!(f, "seed {seed}: {law}")?;
        writeln!(f, "reduced to {} of {} steps: {last}", self.kept.len(), self.steps)?;
        f.write_str(&command(*seed, Some(&self.kept), self.fault))
    }
}

/// The command that runs `seed` again, with `fault` built in: all its steps, or those that `kept` lists.
pub(crate) fn command(seed: u64, kept: Option<&[usize]>, fault: Option<Fault>) -> String {
    let fault = fault.map(|fault| format!("LAKEFERRY_SIM_FAULT={fault:?} ")).unwrap_or_default();
    let listed = |kept: &[usize]| kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let kept = kept.map(|kept| format!("LAKEFERRY_SIM_STEPS={} ", listed(kept))).unwrap_or_default();
    format!("{fault}LAKEFERRY_SIM_SEED={seed} {kept}cargo test --test sim nothing_is_lost -- --nocapture")
}

/// The steps that `LAKEFERRY_SIM_STEPS` lists.
pub(crate) fn numbers(steps: &str) -> Vec<usize> {
    steps.split(',').filter_map(|step| step.parse().ok()).collect()
}

/// What a law says, without what has a number in it.
fn in_words(law: &str) -> Vec<&str> {
    law.split_whitespace().filter(|word| !word.contains(|letter: char| letter.is_ascii_digit())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that is noticed within a few seeds, in a plan of many steps.
    const FAULT: Fault = Fault::FreedNumber;

    #[test]
    fn a_failing_seed_becomes_small_and_fails_the_same_way_by_the_printed_command() {
        let failing = |seed: u64| {
            let plan = Plan::of(seed);
            let law = run(&plan, Some(FAULT)).broken?;
            (plan.steps.len() >= 20).then_some((plan, law))
        };
        let (plan, law) = (0..100).find_map(failing).expect("no seed notices");
        let reduced = Reduced::of(&plan, &law, Some(FAULT));
        assert!(!reduced.kept.is_empty() && reduced.kept.len() * 3 < plan.steps.len() * 2, "{reduced}");
        assert!(reduced.kept.is_sorted(), "{reduced}");

        // What is printed, read as a shell would.
        let text = reduced.to_string();
        let command = text.lines().last().unwrap();
        let value = |name: &str| {
            let words = command.split(' ').filter_map(|word| word.split_once('='));
            words.into_iter().find_map(|(known, value)| (known == name).then_some(value)).unwrap()
        };
        assert!(command.ends_with("cargo test --test sim nothing_is_lost -- --nocapture"), "{text}");
        assert_eq!(value("LAKEFERRY_SIM_FAULT"), format!("{FAULT:?}"));
        let again = Plan::of(value("LAKEFERRY_SIM_SEED").parse().unwrap());
        let again = again.only(&numbers(value("LAKEFERRY_SIM_STEPS")));
        assert_eq!(again.steps.len(), reduced.kept.len());
        let broken = run(&again, Some(FAULT)).broken.expect("the printed command does not fail");
        assert_eq!((in_words(&broken), &broken), (in_words(&law), &reduced.last));
        assert_eq!(run(&again, None).broken, None, "the fault is what fails it");
        assert!(text.contains(&law) && text.contains(&broken), "{text}");
    }

    #[test]
    fn laws_are_the_same_whatever_their_numbers() {
        assert_eq!(in_words("t0-1: offset 17 is lost (log 0..20)"), in_words("t1-0: offset 3 is lost (log 1..4)"));
        assert_ne!(in_words("t0-1: offset 17 is lost"), in_words("t0-1: offset 17 is archived in two lineages"));
    }
}
