//! Gives memory that is free in glibc's heap back to the system.
//!
//! `free` gives back the end of a heap alone, and small things that live on lie across all of it. So a process
//! that has had ten thousand connections keeps what they have used, though nearly all of it is free.
//!
//! This is a crate of its own because it declares a function of C, which Rust calls unsafe code and the rest
//! of this workspace forbids itself. There is no unsafe call: the function takes a number, and has no
//! precondition.

/// Gives back every page of the heap on which nothing lives: `malloc_trim(0)`, see `malloc_trim(3)`. Returns
/// whether there was any.
///
/// It takes about a millisecond for 10 MB of free memory. Meanwhile other threads may wait that allocate or
/// free something, so a process that serves should not call it. A thread that needs the memory again gets it
/// from the kernel, page by page.
///
/// With another C library than glibc, and on other systems than Linux, it does nothing. With an allocator that
/// does not use glibc's heap (jemalloc, mimalloc) there is next to nothing to give back, and it takes no time.
///
/// # Example
///
/// ```
/// let buffers = vec![vec![0u8; 1024]; 10_000];
/// drop(buffers);
/// let _any = hotupdate_heap::trim();
/// ```
pub fn trim() -> bool {
    glibc::trim()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::c_int;

    // It is MT-safe, and every value of its argument, which says how much is to be kept, is valid.
    #[expect(unsafe_code, reason = "no safe function of another crate calls it")]
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> c_int;
    }

    pub(super) fn trim() -> bool {
        malloc_trim(0) == 1
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub(super) fn trim() -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::fs;
    use std::hint::black_box;

    const MB: usize = 1 << 20;

    /// Memory of this process that no file is behind.
    fn resident() -> usize {
        let status = fs::read_to_string("/proc/self/status").expect("this process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    #[test]
    fn what_lies_between_things_that_live_on_is_given_back() {
        let mut all: Vec<_> = (0..64 * 1024).map(|_| black_box(vec![1u8; 1024])).collect();
        let mut number = 0;
        all.retain(|_| {
            number += 1;
            number % 100 == 0
        });
        let before = resident();
        assert!(before > 50 * MB, "free gives nothing back: {before}");
        assert!(super::trim());
        let after = resident();
        assert!(after < before / 4, "{before} {after}");
        assert!(all.iter().all(|one| one.iter().all(|byte| *byte == 1)), "what lives on stays as it is");
    }
}
