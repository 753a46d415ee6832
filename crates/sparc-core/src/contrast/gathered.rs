//! Rows of this process among the rows of all.

use tch::Tensor;

/// This process's rows of a tensor, and all rows of the global batch; rows lie along dimension 0.
///
/// In one process both are the same tensor. With several, `global` is gathered with gradient.
#[derive(Debug, Clone, Copy)]
pub struct Gathered<'a> {
    /// Local rows, `[B, …]`.
    pub local: &'a Tensor,
    /// All rows, `[N, …]`, N ≥ B.
    pub global: &'a Tensor,
}

impl<'a> Gathered<'a> {
    /// One process: the local rows are all there is.
    pub fn single(rows: &'a Tensor) -> Gathered<'a> {
        Gathered { local: rows, global: rows }
    }

    /// Local and global number of rows, B and N.
    ///
    /// # Panics
    ///
    /// If the local rows do not lie inside the global ones, or are of another shape.
    pub(crate) fn check_rows(self, row_offset: i64) -> (i64, i64) {
        let (local, global) = (self.local.size(), self.global.size());
        assert!(local[1..] == global[1..], "local rows are {local:?}, global rows {global:?}");
        let (b, n) = (local[0], global[0]);
        assert!(
            row_offset >= 0 && row_offset + b <= n,
            "local rows {row_offset}..{} are not inside the global batch of {n}",
            row_offset + b
        );
        (b, n)
    }
}

/// Local and global rows made from others.
pub(crate) struct Rows {
    pub local: Tensor,
    global: Option<Tensor>,
}

impl Rows {
    /// Applies `f` to local and, if they are others, to global rows.
    pub(crate) fn map(rows: Gathered, f: impl Fn(&Tensor) -> Tensor) -> Rows {
        let distributed = rows.local.size()[0] != rows.global.size()[0];
        Rows { local: f(rows.local), global: distributed.then(|| f(rows.global)) }
    }

    /// Applies `f` to the rows of two tensors.
    pub(crate) fn map_both(rows: Gathered, other: Gathered, f: impl Fn(&Tensor, &Tensor) -> Tensor) -> Rows {
        let distributed = rows.local.size()[0] != rows.global.size()[0];
        Rows { local: f(rows.local, other.local), global: distributed.then(|| f(rows.global, other.global)) }
    }

    /// Borrowed.
    pub(crate) fn gathered(&self) -> Gathered<'_> {
        Gathered { local: &self.local, global: self.global.as_ref().unwrap_or(&self.local) }
    }
}
