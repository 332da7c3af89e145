//! Memory blocks aligned for O_DIRECT.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment and granularity of O_DIRECT writes: the largest logical block size in use (open(2)).
pub const DIRECT_IO_ALIGNMENT: usize = 4096;

/// A zeroed block of memory whose address and length are multiples of [`DIRECT_IO_ALIGNMENT`].
pub struct AlignedBuffer {
    pointer: NonNull<u8>,
    length: usize,
    capacity: usize,
}

// SAFETY: the block is owned by this value alone; nothing in it is bound to a thread.
unsafe impl Send for AlignedBuffer {}

impl AlignedBuffer {
    /// Allocates `length` zeroed bytes; `length` must be a positive multiple of the alignment.
    pub fn zeroed(length: usize) -> AlignedBuffer {
        let layout = Self::layout(length);
        // SAFETY: the layout has a size above zero, checked in `layout`.
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(pointer) else {
            handle_alloc_error(layout)
        };
        AlignedBuffer {
            pointer,
            length,
            capacity: length,
        }
    }

    /// Shows only the first `length` bytes, or more of them again: a positive multiple of the
    /// alignment, at most what was allocated. The bytes stay what they were.
    pub fn set_length(&mut self, length: usize) {
        Self::layout(length);
        assert!(length <= self.capacity, "{length} > {}", self.capacity);
        self.length = length;
    }

    /// Number of bytes that were allocated.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn layout(length: usize) -> Layout {
        assert!(
            length > 0 && length.is_multiple_of(DIRECT_IO_ALIGNMENT),
            "length {length}"
        );
        Layout::from_size_align(length, DIRECT_IO_ALIGNMENT).expect("alignment is a power of two")
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout, and freed only here.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length` initialised bytes at `pointer` belong to this value.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.length)
    }
}
