//! `sparc shards make`.

use std::path::PathBuf;

use clap::Args;
use sparc_data::shard_tools::{CaptionColumns, make_shards};

use super::OutputArguments;

#[derive(Debug, Args)]
pub struct MakeArguments {
    /// Folder that the table's paths start from
    #[arg(long)]
    images: PathBuf,
    /// Table of captions: csv or tsv with a header, .json, or .jsonl; an image may have several
    /// neighbouring rows
    #[arg(long)]
    captions: PathBuf,
    /// Column or key of the image's path [default: filepath, image, file_name or the like]
    #[arg(long)]
    image_column: Option<String>,
    /// Column or key of the caption [default: title, caption, text or the like]
    #[arg(long)]
    caption_column: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub fn make(arguments: &MakeArguments) -> anyhow::Result<()> {
    let columns = CaptionColumns { image: arguments.image_column.clone(), caption: arguments.caption_column.clone() };
    arguments
        .output
        .write(|output, progress| make_shards(&arguments.images, &arguments.captions, &columns, output, progress))
}
