//! An instruction of AVX-512 for which pulp has no name.
#![expect(unsafe_code, reason = "the processor's instructions")]

use std::arch::x86_64::{__m256i, _mm256_dpbusd_epi32};

use pulp::NullaryFnOnce;
use pulp::x86::V3;

/// Proof that the processor multiplies bytes four at a time (AVX-512 VNNI on registers of 256 bits), and AVX2 with it.
#[derive(Debug, Clone, Copy)]
pub struct Vnni {
    v3: V3,
}

impl Vnni {
    /// The proof, if it is so.
    pub fn try_new() -> Option<Vnni> {
        let v3 = V3::try_new()?;
        (is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")).then_some(Vnni { v3 })
    }

    /// AVX2 and what is older.
    #[inline(always)]
    pub fn v3(self) -> V3 {
        self.v3
    }

    /// Runs `f`, compiled for these instructions as far as it is inlined.
    #[inline(always)]
    pub fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
        #[target_feature(enable = "avx2,bmi1,bmi2,fma,lzcnt,popcnt,avx512vl,avx512vnni")]
        fn compiled<F: NullaryFnOnce>(f: F) -> F::Output {
            f.call()
        }
        // SAFETY: `self` was made where the processor has the last two; the others are V3's.
        unsafe { compiled(f) }
    }

    /// Adds to each of eight sums the products of four bytes without a sign and four with one. Sums wrap around.
    #[inline(always)]
    pub fn add_products(self, sums: __m256i, bytes: __m256i, signed: __m256i) -> __m256i {
        // SAFETY: `self` was made where the processor has the instruction.
        unsafe { _mm256_dpbusd_epi32(sums, bytes, signed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Products {
        vnni: Vnni,
        sums: [i32; 8],
        bytes: [u8; 32],
        signed: [i8; 32],
    }

    impl NullaryFnOnce for Products {
        type Output = [i32; 8];

        #[inline(always)]
        fn call(self) -> [i32; 8] {
            let Products { vnni, sums, bytes, signed } = self;
            pulp::cast(vnni.add_products(pulp::cast(sums), pulp::cast(bytes), pulp::cast(signed)))
        }
    }

    /// Where the processor has it.
    #[test]
    fn products_are_whole_and_sums_wrap_around() {
        let Some(vnni) = Vnni::try_new() else { return };
        let bytes: [u8; 32] = std::array::from_fn(|i| 255 - (i as u8 % 7) * 40);
        let signed: [i8; 32] = std::array::from_fn(|i| if i < 8 { i8::MIN } else { (i as i8 - 16) * 7 });
        let sums = [7, i32::MIN, 7, 7, 7, 7, 7, i32::MAX];
        let expected: [i32; 8] = std::array::from_fn(|sum| {
            let products = (4 * sum..4 * sum + 4).map(|i| i32::from(bytes[i]) * i32::from(signed[i]));
            products.fold(sums[sum], i32::wrapping_add)
        });
        assert!(expected[0] < i32::from(i16::MIN) && expected[1] > 0 && expected[7] < 0);
        assert_eq!(vnni.vectorize(Products { vnni, sums, bytes, signed }), expected);
    }
}
