//! `sparc shards convert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sparc_data::shard_tools::convert::{
    CocoFiles, Flickr30kFiles, RefCocoFiles, VisualGenomeFiles, convert_coco, convert_flickr30k, convert_grit,
    convert_img2dataset, convert_refcoco, convert_visual_genome,
};
use sparc_data::shards::expand_shards;

use super::OutputArguments;

#[derive(Debug, Subcommand)]
pub enum ConvertCommand {
    /// MS COCO: captions, instances, COCO-Stuff label maps, panoptic annotations
    Coco(CocoArguments),
    /// Flickr30k Entities: five captions, a region for each box of a phrase
    Flickr30k(Flickr30kArguments),
    /// Visual Genome: region descriptions
    VisualGenome(VisualGenomeArguments),
    /// RefCOCO, RefCOCO+ and RefCOCOg: referring expressions
    Refcoco(RefCocoArguments),
    /// GRIT as img2dataset downloads it: grounded phrases
    Grit(DownloadArguments),
    /// img2dataset's tars, without what failed to download
    Img2dataset(DownloadArguments),
}

#[derive(Debug, Args)]
pub struct CocoArguments {
    /// Folder of images, such as train2017
    #[arg(long)]
    images: PathBuf,
    /// captions_train2017.json
    #[arg(long, required_unless_present_any = ["instances", "panoptic"])]
    captions: Option<PathBuf>,
    /// instances_train2017.json
    #[arg(long)]
    instances: Option<PathBuf>,
    /// Folder of COCO-Stuff's label maps for these images
    #[arg(long, conflicts_with = "panoptic")]
    stuff: Option<PathBuf>,
    /// panoptic_train2017.json
    #[arg(long, requires = "panoptic_masks")]
    panoptic: Option<PathBuf>,
    /// Folder of the panoptic PNGs
    #[arg(long, requires = "panoptic")]
    panoptic_masks: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
pub struct Flickr30kArguments {
    /// Folder of images
    #[arg(long)]
    images: PathBuf,
    /// Folder Sentences
    #[arg(long)]
    sentences: PathBuf,
    /// Folder Annotations
    #[arg(long)]
    annotations: PathBuf,
    /// Images to take, such as train.txt [default: all that have sentences]
    #[arg(long)]
    ids: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
pub struct VisualGenomeArguments {
    /// Folder with VG_100K and VG_100K_2, or with the images
    #[arg(long)]
    images: PathBuf,
    /// region_descriptions.json
    #[arg(long)]
    regions: PathBuf,
    /// image_data.json
    #[arg(long)]
    image_data: PathBuf,
    /// captions_train2017.json, for the images that are COCO's; training skips images without captions
    #[arg(long)]
    coco_captions: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
pub struct RefCocoArguments {
    /// Folder of images, train2014
    #[arg(long)]
    images: PathBuf,
    /// refs(unc).p, refs(umd).p or refs(google).p
    #[arg(long)]
    refs: PathBuf,
    /// instances.json beside it
    #[arg(long)]
    instances: PathBuf,
    /// Split of the references to take: train, val, test, testA or testB
    #[arg(long, default_value = "train")]
    refs_split: String,
    /// captions_train2014.json; training skips images without captions
    #[arg(long)]
    coco_captions: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
pub struct DownloadArguments {
    /// img2dataset's tars: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    #[command(flatten)]
    output: OutputArguments,
}

pub fn convert(command: &ConvertCommand) -> anyhow::Result<()> {
    match command {
        ConvertCommand::Coco(arguments) => {
            let CocoArguments { images, captions, instances, stuff, panoptic, panoptic_masks, output } = arguments;
            let files = CocoFiles {
                images: images.clone(),
                captions: captions.clone(),
                instances: instances.clone(),
                stuff: stuff.clone(),
                panoptic: panoptic.clone().zip(panoptic_masks.clone()),
            };
            output.write(|output, progress| convert_coco(&files, output, progress))
        }
        ConvertCommand::Flickr30k(arguments) => {
            let Flickr30kArguments { images, sentences, annotations, ids, output } = arguments;
            let files = Flickr30kFiles {
                images: images.clone(),
                sentences: sentences.clone(),
                annotations: annotations.clone(),
                ids: ids.clone(),
            };
            output.write(|output, progress| convert_flickr30k(&files, output, progress))
        }
        ConvertCommand::VisualGenome(arguments) => {
            let VisualGenomeArguments { images, regions, image_data, coco_captions, output } = arguments;
            let files = VisualGenomeFiles {
                images: images.clone(),
                regions: regions.clone(),
                image_data: image_data.clone(),
                coco_captions: coco_captions.clone(),
            };
            output.write(|output, progress| convert_visual_genome(&files, output, progress))
        }
        ConvertCommand::Refcoco(arguments) => {
            let RefCocoArguments { images, refs, instances, refs_split, coco_captions, output } = arguments;
            let files = RefCocoFiles {
                images: images.clone(),
                refs: refs.clone(),
                instances: instances.clone(),
                split: refs_split.clone(),
                coco_captions: coco_captions.clone(),
            };
            output.write(|output, progress| convert_refcoco(&files, output, progress))
        }
        ConvertCommand::Grit(DownloadArguments { data, output }) => {
            let shards = expand_shards(data)?;
            output.write(|output, progress| convert_grit(&shards, output, progress))
        }
        ConvertCommand::Img2dataset(DownloadArguments { data, output }) => {
            let shards = expand_shards(data)?;
            output.write(|output, progress| convert_img2dataset(&shards, output, progress))
        }
    }
}
