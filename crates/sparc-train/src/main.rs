//! The command `sparc`: train, evaluate and look into fine-grained vision-language encoders.

mod commands;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use commands::Command;

/// Trains, evaluates and inspects fine-grained vision-language encoders.
#[derive(Debug, Parser)]
#[command(name = "sparc", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .without_time()
        .init();
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    /// A new flag must be wanted: knobs belong into the configuration file.
    #[test]
    fn the_flags_are_these() {
        let mut flags = Vec::new();
        fn walk(path: &str, command: &clap::Command, flags: &mut Vec<String>) {
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                flags.push(format!("{path} {}", argument.get_id()));
            }
            for child in command.get_subcommands() {
                walk(format!("{path} {}", child.get_name()).trim(), child, flags);
            }
        }
        walk("", &Arguments::command(), &mut flags);
        assert_eq!(flags, FLAGS.lines().map(str::trim).collect::<Vec<_>>());
    }

    const FLAGS: &str = "\
        train config
        train set
        train resume
        train overwrite
        plan config
        plan set
        eval checkpoint
        eval data
        eval task
        eval json
        eval classes
        eval seg_classes
        eval region_classes
        eval patches
        eval resize
        eval caption
        eval answers
        eval rerank
        eval heatmaps
        score checkpoint
        score image
        score text
        score pairs
        score json
        embed checkpoint
        embed image
        embed regions
        embed out
        ground checkpoint
        ground image
        ground phrase
        caption checkpoint
        caption image
        caption data
        caption out
        caption format
        caption set
        inspect checkpoint
        inspect image
        inspect text
        inspect data
        inspect phrase
        inspect boxes
        inspect heatmaps
        inspect out
        report run
        report data
        report task
        report out
        report started
        shards make images
        shards make captions
        shards make image_column
        shards make caption_column
        shards make out
        shards make split
        shards make max_shard_count
        shards make max_shard_size
        shards make json
        shards convert coco images
        shards convert coco captions
        shards convert coco instances
        shards convert coco stuff
        shards convert coco panoptic
        shards convert coco panoptic_masks
        shards convert coco out
        shards convert coco split
        shards convert coco max_shard_count
        shards convert coco max_shard_size
        shards convert coco json
        shards convert flickr30k images
        shards convert flickr30k sentences
        shards convert flickr30k annotations
        shards convert flickr30k ids
        shards convert flickr30k out
        shards convert flickr30k split
        shards convert flickr30k max_shard_count
        shards convert flickr30k max_shard_size
        shards convert flickr30k json
        shards convert visual-genome images
        shards convert visual-genome regions
        shards convert visual-genome image_data
        shards convert visual-genome coco_captions
        shards convert visual-genome out
        shards convert visual-genome split
        shards convert visual-genome max_shard_count
        shards convert visual-genome max_shard_size
        shards convert visual-genome json
        shards convert refcoco images
        shards convert refcoco refs
        shards convert refcoco instances
        shards convert refcoco refs_split
        shards convert refcoco coco_captions
        shards convert refcoco out
        shards convert refcoco split
        shards convert refcoco max_shard_count
        shards convert refcoco max_shard_size
        shards convert refcoco json
        shards convert grit data
        shards convert grit out
        shards convert grit split
        shards convert grit max_shard_count
        shards convert grit max_shard_size
        shards convert grit json
        shards convert img2dataset data
        shards convert img2dataset out
        shards convert img2dataset split
        shards convert img2dataset max_shard_count
        shards convert img2dataset max_shard_size
        shards convert img2dataset json
        shards lint data
        shards lint json
        shards stat data
        shards stat json
        shards peek data
        shards peek out
        shards peek count
        shards phrases data
        shards phrases out
        shards phrases tagger
        shards phrases sample
        shards phrases json
        shards index data
        shards index json
        shards synth out
        shards synth train
        shards synth val
        shards synth test
        shards synth seed
        shards synth image_size
        shards synth if_missing
        doctor data
        doctor tokenizer
        doctor image_size
        doctor workers
        doctor batch_size
        doctor json
        tokenizer train data
        tokenizer train out
        tokenizer train vocab_size
        tokenizer train model
        tokenizer train keep_case
        tokenizer train mask_token";
}
