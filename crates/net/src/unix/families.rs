//! What exists once per address family.

use std::net::IpAddr;

use traceroute_wire::Family;

/// Something for IPv4 and for IPv6, each made when it is first needed.
pub(crate) struct PerFamily<T> {
    v4: Option<T>,
    v6: Option<T>,
}

impl<T> Default for PerFamily<T> {
    fn default() -> Self {
        PerFamily { v4: None, v6: None }
    }
}

impl<T> PerFamily<T> {
    /// That of the family of `address`, made by `open` if there is none.
    pub(crate) fn get_or_open<E>(
        &mut self,
        address: IpAddr,
        open: impl FnOnce(Family) -> Result<T, E>,
    ) -> Result<&mut T, E> {
        let family = Family::of(address);
        let slot = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        match slot {
            Some(existing) => Ok(existing),
            None => Ok(slot.insert(open(family)?)),
        }
    }

    /// That of a family, if it was made.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn of(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.v4.iter().chain(&self.v6)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.v4.iter_mut().chain(&mut self.v6)
    }
}
