//! How much memory a piece of code holds at its peak, for tests of readers of foreign bytes: such a reader must not
//! allocate because a number is large. Compiled in by the feature `measure`, which only tests ask for.
//!
//! A test binary makes [`Counting`] its global allocator; [`peak_of`] then tells of the thread that it runs on. What C
//! libraries allocate themselves (the window of zstd, 128 MiB at most) is not seen, nor what telling of a panic takes.

#![allow(unsafe_code, reason = "an allocator has no safe interface")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Once;

/// The system's allocator, which counts.
pub struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// What `work` held at its peak, in bytes, beyond what was held before; and what it returned.
///
/// # Panics
/// Where nothing is counted, because [`Counting`] is not the allocator.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    // The names of functions are read once, for the first panic that somebody catches, and kept.
    static NAMES: Once = Once::new();
    NAMES.call_once(|| drop(std::backtrace::Backtrace::force_capture().to_string()));
    let before = HELD.get();
    let outer = PEAK.replace(before);
    drop(std::hint::black_box(Box::new(before)));
    assert!(PEAK.get() > before, "make lakeferry_api::measure::Counting the global allocator of this test binary");
    PEAK.set(before);
    let done = work();
    let peak = PEAK.get();
    PEAK.set(outer.max(peak));
    (usize::try_from(peak - before).unwrap_or(0), done)
}

/// Notes `bytes` more. A thread that ends has nothing to note it in any more.
fn count(bytes: isize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        if bytes > 0 && !std::thread::panicking() {
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
        }
    });
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // It may have to be copied: then both are held for a moment.
        count(size as isize);
        let moved = unsafe { System.realloc(place, layout, size) };
        count(-(layout.size() as isize));
        moved
    }
}
