//! Buffers in pages of their own (mmap(2), madvise(2)).

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a buffer. Hyper makes two for each connection, and cannot be asked for smaller ones.
const BUFFER: usize = 8192;
/// Buffers are in groups: giving pages back takes as long for a whole group as for one.
const GROUP: usize = u64::BITS as usize;
/// So many have pages of their own: those of 8192 connections. Others are in the heap.
const GROUPS: usize = 256;
const BUFFERS: usize = GROUPS * GROUP;
/// Free ones that keep their pages for the next who needs one.
const KEPT: u32 = 128;
/// With larger pages a buffer would take more than it has.
const PAGE: libc::c_long = 4096;

/// The system's allocator, except that blocks of 8192 bytes begin with a page.
///
/// For a service with thousands of connections: a request uses a few hundred bytes of its buffers.
/// A buffer with pages of its own takes those that were written to. In the heap it shares them with
/// its neighbours, and its size stands in front of it, so that hardly any page stays unused.
///
/// Some free buffers keep their pages for the next who needs one, until [`return_free_memory`].
///
/// [`return_free_memory`]: crate::return_free_memory
#[derive(Debug, Clone, Copy, Default)]
pub struct BufferPages;

/// Where the buffers are: addresses of `BUFFERS * BUFFER` bytes. Null: nowhere.
static BASE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static POOL: Mutex<Pool> = Mutex::new(Pool {
    is_prepared: false,
    taken: [0; GROUPS],
    paged: [0; GROUPS],
    kept: 0,
});

struct Pool {
    /// `BASE` is what it will ever be.
    is_prepared: bool,
    /// A bit for each buffer: somebody has it.
    taken: [u64; GROUPS],
    /// It may have pages.
    paged: [u64; GROUPS],
    /// How many may have pages although nobody has them.
    kept: u32,
}

/// Nothing panics or allocates while it is locked.
fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which buffer a block is.
fn index(block: *mut u8) -> Option<usize> {
    let base = BASE.load(Ordering::Acquire);
    let index = block.addr().wrapping_sub(base.addr()) / BUFFER;
    (!base.is_null() && index < BUFFERS).then_some(index)
}

/// Where a buffer begins.
fn start(index: usize) -> Option<NonNull<u8>> {
    // SAFETY: within the mapping, or within nothing.
    NonNull::new(BASE.load(Ordering::Acquire)).map(|base| unsafe { base.add(index % BUFFERS * BUFFER) })
}

impl Pool {
    /// One that has pages, if there is one; of the first group, so that others get free as a whole.
    fn take(&mut self) -> Option<NonNull<u8>> {
        if !self.is_prepared {
            self.is_prepared = true;
            reserve();
        }
        let mut groups = self.taken.iter().zip(&self.paged);
        let kept = groups.position(|(taken, paged)| !taken & paged != 0);
        let group = kept.or_else(|| self.taken.iter().position(|taken| *taken != u64::MAX))?;
        let (taken, paged) = (self.taken.get_mut(group)?, self.paged.get_mut(group)?);
        let kept = !*taken & *paged;
        let place = if kept == 0 { !*taken } else { kept }.trailing_zeros();
        let buffer = start(group * GROUP + place as usize)?;
        self.kept -= u32::from(kept != 0);
        *taken |= 1 << place;
        *paged |= 1 << place;
        Some(buffer)
    }

    fn give_back(&mut self, index: usize) {
        let group = index / GROUP;
        if let Some(taken) = self.taken.get_mut(group) {
            *taken &= !(1 << (index % GROUP));
            self.kept += 1;
            if *taken == 0 && self.kept > KEPT {
                self.clean(group);
            }
        }
    }

    /// Gives the pages of a group's free buffers back to the system.
    fn clean(&mut self, group: usize) {
        let (Some(taken), Some(paged)) = (self.taken.get(group), self.paged.get_mut(group)) else {
            return;
        };
        let mut kept = *paged & !*taken;
        self.kept -= kept.count_ones();
        *paged &= *taken;
        while kept != 0 {
            let first = kept.trailing_zeros();
            let count = (kept >> first).trailing_ones();
            if let Some(buffers) = start(group * GROUP + first as usize) {
                // SAFETY: nobody uses them, and nobody can take one meanwhile.
                unsafe {
                    libc::madvise(
                        buffers.as_ptr().cast(),
                        count as usize * BUFFER,
                        libc::MADV_DONTNEED,
                    )
                };
            }
            kept &= u64::MAX.checked_shl(first + count).unwrap_or(0);
        }
    }
}

/// Takes addresses, without memory. Where addresses are scarce, everything is in the heap.
fn reserve() {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: no pointers; and a new mapping at an address of the kernel's choice touches no memory
    // that exists. A huge page would hold hundreds of buffers, used or not.
    unsafe {
        if libc::sysconf(libc::_SC_PAGESIZE) != PAGE || crate::most_address_space().is_some() {
            return;
        }
        let base = libc::mmap(ptr::null_mut(), BUFFERS * BUFFER, access, kind, -1, 0);
        if base != libc::MAP_FAILED {
            libc::madvise(base, BUFFERS * BUFFER, libc::MADV_NOHUGEPAGE);
            BASE.store(base.cast(), Ordering::Release);
        }
    }
}

/// Gives pages of free buffers back to the system.
pub(super) fn clean() {
    // Who needs a buffer meanwhile waits for one group at the most.
    (0..GROUPS).for_each(|group| pool().clean(group));
}

// SAFETY: a block is where `BASE` says, and then it is a buffer that nobody else has, or comes from
// the system's allocator. Nothing here panics or allocates otherwise.
unsafe impl GlobalAlloc for BufferPages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() == BUFFER
            && layout.align() <= PAGE as usize
            && let Some(buffer) = pool().take()
        {
            return buffer.as_ptr();
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match index(block) {
            Some(index) => pool().give_back(index),
            // SAFETY: the caller's contract.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(index) = index(block) else {
            // SAFETY: the caller's contract.
            return unsafe { System.realloc(block, layout, size) };
        };
        // SAFETY: the caller's contract says that this is a layout.
        let moved = unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both blocks are that long, and one of them is new.
            unsafe { ptr::copy_nonoverlapping(block, moved, size.min(BUFFER)) };
            pool().give_back(index);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    /// A block full of one value.
    struct Block(*mut u8, usize, u8);

    impl Block {
        fn new(size: usize, value: u8) -> Self {
            // SAFETY: not of size 0, and written to before it is read.
            unsafe {
                let block = BufferPages.alloc(layout(size));
                ptr::write_bytes(block, value, size);
                Block(block, size, value)
            }
        }

        fn is_intact(&self, size: usize) -> bool {
            // SAFETY: that long, and initialised.
            let bytes = unsafe { std::slice::from_raw_parts(self.0, size) };
            bytes.iter().all(|byte| *byte == self.2)
        }

        fn resize(mut self, size: usize) -> Self {
            // SAFETY: the block is of this layout.
            unsafe {
                self.0 = BufferPages.realloc(self.0, layout(self.1), size);
                assert!(self.is_intact(size.min(self.1)));
                ptr::write_bytes(self.0, self.2, size);
            }
            self.1 = size;
            self
        }

        fn free(self) {
            assert!(self.is_intact(self.1));
            // SAFETY: the block is of this layout.
            unsafe { BufferPages.dealloc(self.0, layout(self.1)) };
        }
    }

    /// One test, because there is one pool: threads that take, resize and free at random while pages
    /// are given back, and in the end more buffers than there are.
    #[test]
    fn nobody_else_writes_to_a_block() {
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread.into());
                    let mut blocks = Vec::new();
                    for turn in 0..20_000_u32 {
                        match random.u8(..8) {
                            0..3 => blocks.push(Block::new(BUFFER, random.u8(..))),
                            3 => blocks.push(Block::new(random.usize(1..2 * BUFFER), random.u8(..))),
                            4 if !blocks.is_empty() => {
                                let block: Block = blocks.swap_remove(random.usize(..blocks.len()));
                                let size = [BUFFER, 16, 3 * BUFFER][random.usize(..3)];
                                blocks.push(block.resize(size));
                            }
                            _ if !blocks.is_empty() => {
                                blocks.swap_remove(random.usize(..blocks.len())).free();
                            }
                            _ => {}
                        }
                        if turn % 1000 == 0 {
                            clean();
                        }
                    }
                    blocks.into_iter().for_each(Block::free);
                });
            }
        });
        // Every buffer that was used is free again.
        let state = || {
            let pool = pool();
            let bits = |words: &[u64]| words.iter().map(|word| word.count_ones()).sum::<u32>();
            (bits(&pool.taken), bits(&pool.paged), pool.kept)
        };
        let (taken, paged, kept) = state();
        assert!(taken == 0 && paged == kept, "{taken} {paged} {kept}");
        clean();
        assert_eq!(state(), (0, 0, 0));

        let all: Vec<Block> = (0..BUFFERS + 10)
            .map(|turn| Block::new(BUFFER, turn as u8))
            .collect();
        let in_pool = all.iter().filter(|block| index(block.0).is_some()).count();
        // SAFETY: no pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let is_usable = page == PAGE && crate::most_address_space().is_none();
        assert_eq!(in_pool, if is_usable { BUFFERS } else { 0 });
        all.into_iter().for_each(Block::free);
        let (taken, paged, kept) = state();
        assert!(
            taken == 0 && paged == kept && kept <= KEPT,
            "{taken} {paged} {kept}"
        );
    }
}
