//! Forged and damaged packets.
