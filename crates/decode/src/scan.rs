//! Looking for the byte that ends something, sixteen or thirty-two at a time; and text known to be UTF-8.
//!
//! The only `unsafe` code of the crate: vector loads, which need a pointer, and string arrays built without
//! validating a second time.
#![expect(unsafe_code, reason = "vector loads take pointers; validated text is not validated twice")]

use arrow_array::StringArray;
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer};

/// The first `"`, `\` or control byte of `bytes` at or after `from`; `bytes.len()` if there is none.
#[inline(always)]
pub(crate) fn string_end(bytes: &[u8], from: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        string_end_sse2(bytes, from)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        string_end_portable(bytes, from)
    }
}

/// SSE2 is part of x86-64 itself: no detection, and it inlines into the parser, which the wider vectors cannot.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn string_end_sse2(bytes: &[u8], from: usize) -> usize {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8,
    };
    let mut at = from;
    while at + 16 <= bytes.len() {
        // SAFETY: the sixteen bytes from `at` lie within `bytes` by the loop's condition, and the load takes any
        // alignment; the rest is arithmetic on registers, and every x86-64 has SSE2.
        let hits = unsafe {
            let block = _mm_loadu_si128(bytes.as_ptr().add(at).cast::<__m128i>());
            let quote = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'"' as i8));
            let backslash = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1f)), block);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
        };
        if hits != 0 {
            return at + hits.trailing_zeros() as usize;
        }
        at += 16;
    }
    string_end_portable(bytes, at)
}

/// The same on any machine, a word at a time.
#[inline]
pub(crate) fn string_end_portable(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let mut at = from;
    while let Some(Ok(eight)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let word = u64::from_le_bytes(eight);
        let quote = zero_byte(word ^ (ONES * u64::from(b'"')));
        let backslash = zero_byte(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let hits = quote | backslash | control;
        if hits != 0 {
            // A borrow may mark a byte above the first true hit, never one below it.
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let hit = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20);
    hit.map_or(bytes.len(), |index| at + index)
}

/// Whether all of `bytes` is UTF-8.
pub(crate) fn is_utf8(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

/// A string column from text that was validated when it came in.
///
/// # Invariants
/// `values` is UTF-8, every offset lies on a character boundary within it, offsets never fall, and `nulls` has a bit for each row.
/// Debug builds check it.
pub(crate) fn string_array(offsets: Vec<i32>, values: Vec<u8>, nulls: Option<NullBuffer>) -> StringArray {
    debug_assert!(std::str::from_utf8(&values).is_ok());
    debug_assert!(offsets.windows(2).all(|pair| pair[0] <= pair[1]));
    debug_assert_eq!(offsets.last().copied(), i32::try_from(values.len()).ok());
    let offsets = OffsetBuffer::new(offsets.into());
    // SAFETY: callers push only pieces of validated input cut at ASCII bytes, and text decoded from escapes, so
    // the buffer is UTF-8 and each offset a character boundary; `OffsetBuffer::new` checked that offsets rise from zero or more.
    unsafe { StringArray::new_unchecked(offsets, Buffer::from_vec(values), nulls) }
}
