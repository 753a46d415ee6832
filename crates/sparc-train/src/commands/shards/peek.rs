//! `sparc shards peek`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use sparc_data::shard_tools::PeekedSample;
use sparc_data::shards::expand_shards;
use sparc_eval::draw::{Contact, contact_sheet};

#[derive(Debug, Args)]
pub struct PeekArguments {
    /// Shards to look into: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// PNG to write
    #[arg(long, default_value = "peek.png")]
    out: PathBuf,
    /// How many samples
    #[arg(long, default_value_t = 16)]
    count: usize,
}

pub fn peek(arguments: &PeekArguments) -> anyhow::Result<()> {
    let shards = expand_shards(&arguments.data)?;
    let (samples, skips) = sparc_data::shard_tools::peek(&shards, arguments.count)?;
    if samples.is_empty() {
        bail!("no sample of {} can be shown: {skips}", arguments.data);
    }
    let contacts: Vec<Contact> = samples.into_iter().map(contact).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    contact_sheet(&contacts).write_to(&mut bytes, image::ImageFormat::Png)?;
    sparc_data::shard_writer::write_file_atomically(&arguments.out, bytes.get_ref())?;
    println!("{}: {} samples", arguments.out.display(), contacts.len());
    Ok(())
}

fn contact(sample: PeekedSample) -> Contact {
    let (width, height) = sample.image.dimensions();
    let regions = |regions: Vec<_>| {
        regions.into_iter().map(|region: sparc_data::record::RegionRecord| (region.box_xyxy, region.text)).collect()
    };
    Contact {
        title: format!("{}  {width}x{height}", sample.key),
        image: sample.image,
        captions: sample.captions,
        regions: sample.regions.map(regions),
    }
}
