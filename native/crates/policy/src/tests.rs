//! Tables over every form of match.
