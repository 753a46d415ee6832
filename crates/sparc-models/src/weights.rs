//! Tensors to and from safetensors files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};
use tch::{Device, Kind, Tensor};

/// What can go wrong with a weights file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The file is not a whole safetensors file.
    #[error("{path} is not a readable safetensors file ({reason}); it may be cut off: use an earlier checkpoint", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A tensor of a kind that is neither a float nor an integer we store.
    #[error("{path}: tensor {name} has the unsupported kind {kind}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its kind.
        kind: String,
    },
}

/// The kinds that weights and optimizer states are stored in.
const KINDS: [(Kind, Dtype); 6] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Bool, Dtype::BOOL),
];

struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for StoredTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes named tensors and string metadata to `path`, and waits until they are on the disk.
///
/// # Errors
///
/// The system's reason, or a tensor of an unsupported kind.
pub fn save<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<(), Error> {
    let mut stored = Vec::new();
    for (name, tensor) in tensors {
        let kind = tensor.kind();
        let Some((_, dtype)) = KINDS.iter().find(|(known, _)| *known == kind) else {
            return Err(Error::Kind { path: path.into(), name: name.into(), kind: format!("{kind:?}") });
        };
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        stored.push((name.to_owned(), StoredTensor { dtype: *dtype, shape, bytes }));
    }
    let io = |reason| Error::Io { path: path.into(), reason };
    let bytes = safetensors::serialize(stored, Some(metadata))
        .map_err(|error| Error::Format { path: path.into(), reason: error.to_string() })?;
    let mut file = std::fs::File::create(path).map_err(io)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(io)?;
    file.sync_all().map_err(io)
}

/// Reads all tensors of a file onto the CPU.
///
/// # Errors
///
/// The system's reason, or what is wrong with the format.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>, Error> {
    let bytes = std::fs::read(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| Error::Format { path: path.into(), reason: error.to_string() })?;
    file.iter()
        .map(|(name, view)| {
            let Some((kind, _)) = KINDS.iter().find(|(_, dtype)| *dtype == view.dtype()) else {
                return Err(Error::Kind { path: path.into(), name: name.into(), kind: format!("{:?}", view.dtype()) });
            };
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            Ok((name.to_owned(), Tensor::from_data_size(view.data(), &shape, *kind)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use sparc_testing::{random, values};
    use tch::Kind;

    use super::{Error, load, save};

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let (a, b) = (random(&[2, 3], 1), random(&[], 2).to_kind(Kind::Float));
        save(&path, [("a", &a), ("b", &b)], HashMap::new()).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!((loaded.len(), loaded["a"].size(), loaded["b"].kind()), (2, vec![2, 3], Kind::Float));
        assert_eq!((values(&loaded["a"]), values(&loaded["b"])), (values(&a), values(&b)));
    }

    #[test]
    fn a_file_cut_off_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        save(&path, [("a", &random(&[20], 1))], HashMap::new()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 5, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = load(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }) && error.to_string().contains("weights.safetensors"));
        }
        assert!(matches!(load(&folder.path().join("absent")), Err(Error::Io { .. })));
    }
}
