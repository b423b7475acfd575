//! Interfaces by name and index.

use std::num::NonZeroU32;

use super::{interfaces, sys};

pub(crate) fn interface_of_name(name: &str) -> Option<NonZeroU32> {
    NonZeroU32::new(sys::interface_index(name)?)
}

pub(crate) fn has_interface(index: NonZeroU32) -> bool {
    sys::has_interface(index.get())
}

/// The only interface that a link-local target can be on.
pub(crate) fn only_zone() -> Option<NonZeroU32> {
    interfaces::only_interface().and_then(NonZeroU32::new)
}
