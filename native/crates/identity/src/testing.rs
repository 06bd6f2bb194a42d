//! A CA in this process and a clock to turn, for the tests of this crate and of those that use it.
