//! The one integration binary.
mod schedule_sim;
