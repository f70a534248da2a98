//! A body of `vm.create`: reading it and checking it never fails in another way than with words, and what was checked passes again.

use config::{VmConfig, check, from_json};

use crate::json::assert_stable;

pub(crate) fn run(data: &[u8]) {
    let Ok((config, _)) = from_json::<VmConfig>(data) else { return };
    assert_stable(&config);
    match check(config) {
        Ok(plan) => {
            let told = plan.config().clone();
            assert_stable(&told);
            let again =
                check(told.clone()).unwrap_or_else(|e| panic!("refused the second time: {e:?} in {told:?}"));
            assert_eq!(again.config(), &told, "checking changes what was checked");
        }
        Err(problems) => {
            assert!(problems.iter().next().is_some());
            for problem in problems.iter() {
                assert!(!problem.text.is_empty() && !problem.hint.is_empty(), "{problem:?}");
            }
        }
    }
}
