//! Members to samples: neighbours with the same key belong together.
//!
//! It does not matter whether members are bytes that have just been read or places in a file that an
//! index names: both go through here, so that both give the same samples.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use webdataset::core::base_plus_ext;

use crate::skips::SkipReason;
use crate::tar_members::Wish;

/// Members with more bytes are left out: 25 million pixels take at most as much.
pub const MAX_MEMBER_BYTES: u64 = 256 << 20;
/// Members that make a sample larger than this are left out.
pub const MAX_SAMPLE_BYTES: u64 = 512 << 20;

/// A sample whose members are `D`.
#[derive(Debug)]
pub(crate) struct Group<D> {
    /// Path of the members up to the first dot of the base name.
    pub(crate) key: String,
    /// By lower-case extension.
    pub(crate) members: HashMap<String, D>,
    /// Bytes of all members.
    bytes: u64,
}

/// What there is of a member.
pub(crate) enum Content<D> {
    Kept(D),
    Unwanted,
    TooLarge,
}

/// Whether a member belongs to a sample: `__index__` and the like describe the shard.
pub(crate) fn is_sample_member(name: &str) -> bool {
    base_plus_ext(name).is_some_and(|(key, _)| !key.rsplit('/').next().is_some_and(|base| base.starts_with("__")))
}

/// What a member brought about.
pub(crate) struct Pushed<D> {
    /// The sample before it, which is complete now.
    pub(crate) finished: Option<Group<D>>,
    /// Why this member is left out, with its sample's key.
    pub(crate) skip: Option<(SkipReason, String, String)>,
}

/// The sample under way.
#[derive(Debug)]
pub(crate) struct Grouping<D> {
    wanted: Option<&'static [&'static str]>,
    current: Option<Group<D>>,
}

impl<D> Grouping<D> {
    /// Keeps members of these extensions, or all.
    pub(crate) fn new(wanted: Option<&'static [&'static str]>) -> Grouping<D> {
        Grouping { wanted, current: None }
    }

    /// Whether to read a member, and how much of it.
    pub(crate) fn wish(&self, name: &str) -> Wish {
        let Some((key, extension)) = base_plus_ext(name) else {
            return Wish::Skip;
        };
        if self.wanted.is_some_and(|wanted| !wanted.contains(&extension.to_ascii_lowercase().as_str())) {
            return Wish::Skip;
        }
        let held = self.current.as_ref().filter(|group| group.key == key).map_or(0, |group| group.bytes);
        Wish::Read { limit: MAX_MEMBER_BYTES.min(MAX_SAMPLE_BYTES.saturating_sub(held)) }
    }

    /// Adds a member of `size` bytes.
    pub(crate) fn push(&mut self, name: &str, size: u64, content: Content<D>) -> Pushed<D> {
        let Some((key, extension)) = base_plus_ext(name) else {
            return Pushed { finished: None, skip: None };
        };
        if !is_sample_member(name) {
            return Pushed { finished: None, skip: None };
        }
        let extension = extension.to_ascii_lowercase();
        let same = self.current.as_ref().is_some_and(|group| group.key == key);
        let next = || Group { key: key.into(), members: HashMap::new(), bytes: 0 };
        let finished = if same { None } else { self.current.replace(next()) };
        let group = self.current.get_or_insert_with(next);
        let skip = match (content, group.members.entry(extension)) {
            (Content::Unwanted, _) => None,
            (Content::Kept(data), Entry::Vacant(place)) => {
                place.insert(data);
                group.bytes += size;
                None
            }
            (Content::Kept(_), Entry::Occupied(place)) => {
                Some((SkipReason::DuplicateMember, format!("a second .{}", place.key())))
            }
            (Content::TooLarge, place) => {
                Some((SkipReason::MemberTooLarge, format!("the .{} member has {size} bytes", place.key())))
            }
        };
        Pushed { finished, skip: skip.map(|(reason, detail)| (reason, key.to_owned(), detail)) }
    }

    /// The sample under way, at the end of the shard.
    pub(crate) fn finish(&mut self) -> Option<Group<D>> {
        self.current.take()
    }
}

impl<D> Group<D> {
    /// Bytes of all members.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
