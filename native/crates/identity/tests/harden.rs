//! Alone in its process, which it changes.

use nix::sys::prctl::get_dumpable;
use nix::sys::resource::{Resource, getrlimit};

#[test]
fn a_hardened_process_leaves_no_core_and_cannot_be_attached_to() {
    assert!(get_dumpable().unwrap());
    meltemi_identity::harden_process().unwrap();
    assert!(!get_dumpable().unwrap());
    assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
}
