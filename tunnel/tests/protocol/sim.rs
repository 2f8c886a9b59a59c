//! A clock that stands until a test moves it, and the heap of a thread counted.
//!
//! boringtun reads the clock itself. So that a day passes in a second for it, too, this program brings its own
//! `clock_gettime`, which the linker prefers to the C library's: on a thread that froze it all clocks stand still.
//! Each test runs on a thread of its own; others see the real time.
#![allow(
    unsafe_code,
    reason = "a symbol of the C library and the allocator are replaced, in tests only"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

thread_local! {
    /// How far the frozen clocks of this thread stand behind 2020; `None` is the real time.
    static FROZEN: Cell<Option<Duration>> = const { Cell::new(None) };
    /// How long the machine was suspended; how far its time was set ahead.
    static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static STEPPED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// Bytes allocated and not freed by this thread.
    static HEAP: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static FREES: Cell<usize> = const { Cell::new(0) };
    static READINGS: Cell<usize> = const { Cell::new(0) };
    /// What is looked for in memory that this thread frees, and in how many pieces it was.
    static SOUGHT: Cell<&'static [u8]> = const { Cell::new(&[]) };
    static FOUND: Cell<usize> = const { Cell::new(0) };
}

const START: Duration = Duration::from_secs(1_577_836_800);

/// Freezes the clocks: from now on this thread's time passes only by [`pass`].
pub(crate) fn freeze() {
    FROZEN.set(Some(Duration::ZERO));
}

/// Lets time pass, if it is frozen.
pub(crate) fn pass(time: Duration) {
    FROZEN.set(FROZEN.get().map(|now| now + time));
}

/// The machine is suspended for a while.
pub(crate) fn suspend(time: Duration) {
    SUSPENDED.set(SUSPENDED.get() + time);
}

/// The machine's time is set ahead.
pub(crate) fn step(time: Duration) {
    STEPPED.set(STEPPED.get() + time);
}

/// Returns the bytes this thread has on the heap, above what it had when the thread began or began to free for others.
pub(crate) fn heap() -> isize {
    HEAP.get()
}

/// From now on these bytes are looked for in memory that this thread frees.
pub(crate) fn seek(bytes: &'static [u8]) {
    SOUGHT.set(bytes);
}

/// Returns in how many pieces of freed memory they were.
pub(crate) fn found() -> usize {
    FOUND.get()
}

/// Returns how often this thread allocated.
pub(crate) fn allocations() -> usize {
    ALLOCATIONS.get()
}

/// Returns how often this thread freed memory.
pub(crate) fn frees() -> usize {
    FREES.get()
}

/// Returns how often this thread read the frozen clock.
pub(crate) fn readings() -> usize {
    READINGS.get()
}

/// As `clock_gettime(2)`, and with the same promise: `to` points to a `timespec`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, to: *mut libc::timespec) -> libc::c_int {
    match FROZEN.try_with(Cell::get) {
        Ok(Some(passed)) => {
            READINGS.set(READINGS.get() + 1);
            let since = match clock {
                libc::CLOCK_REALTIME => SUSPENDED.get() + STEPPED.get(),
                libc::CLOCK_BOOTTIME => SUSPENDED.get(),
                _ => Duration::ZERO,
            };
            let now = START + passed + since;
            // SAFETY: the caller's promise.
            unsafe {
                (*to).tv_sec = now.as_secs().try_into().unwrap_or(libc::time_t::MAX);
                (*to).tv_nsec = now.subsec_nanos().into();
            }
            0
        }
        // SAFETY: the kernel writes where the caller promised there is room.
        Ok(None) | Err(_) => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) as libc::c_int },
    }
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(by: isize) {
    let _ = HEAP.try_with(|heap| heap.set(heap.get() + by));
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        let _ = ALLOCATIONS.try_with(|number| number.set(number.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        let _ = FREES.try_with(|number| number.set(number.get() + 1));
        let sought = SOUGHT.try_with(Cell::get).unwrap_or_default();
        // SAFETY: so long is the piece, which is still this thread's.
        let place = unsafe {
            libc::memmem(
                pointer.cast(),
                layout.size(),
                sought.as_ptr().cast(),
                sought.len(),
            )
        };
        if !sought.is_empty() && !place.is_null() {
            FOUND.set(FOUND.get() + 1);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn a_frozen_clock_moves_only_when_told_and_only_here() {
    use std::time::{Instant, SystemTime};
    freeze();
    let (start, wall) = (Instant::now(), SystemTime::now());
    pass(Duration::from_secs(86_400));
    assert_eq!(start.elapsed(), Duration::from_secs(86_400));
    assert_eq!(wall.elapsed().unwrap(), Duration::from_secs(86_400));
    let elsewhere = std::thread::spawn(SystemTime::now).join().unwrap();
    assert!(elsewhere > SystemTime::now() + Duration::from_secs(86_400));
    let before = heap();
    let bytes = vec![0u8; 1000];
    assert_eq!(heap() - before, 1000);
    drop(bytes);
    assert_eq!(heap(), before);
}
