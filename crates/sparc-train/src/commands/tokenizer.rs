//! `sparc tokenizer`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sparc_data::shards::expand_shards;
use sparc_data::{TextTokenizer, TokenizerModel, TokenizerTraining, read_all_captions, train_tokenizer};

#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Make a Hugging Face tokenizer.json from the captions of shards
    Train(TokenizerArguments),
}

#[derive(Debug, Args)]
pub struct TokenizerArguments {
    /// Shards to read: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// File to write
    #[arg(long)]
    out: PathBuf,
    /// Most token ids, four special ones included; the mask token is one more
    #[arg(long, default_value_t = 32_000)]
    vocab_size: usize,
    /// Kind of model
    #[arg(long, value_enum, default_value_t = Model::Bpe)]
    model: Model,
    /// Do not lower-case texts
    #[arg(long)]
    keep_case: bool,
    /// Add a mask token, which ALBEF and NAS need; the other ids are as without it
    #[arg(long)]
    mask_token: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Model {
    /// Byte-pair encoding: the same captions give the same file
    Bpe,
    /// Unigram language model, SentencePiece's default
    Unigram,
}

/// Context length that the finished tokenizer is tried with; it plays no part in training.
const TRIAL_CONTEXT: usize = 64;

pub fn run(TokenizerCommand::Train(arguments): &TokenizerCommand) -> anyhow::Result<()> {
    let (captions, skips) = read_all_captions(&expand_shards(&arguments.data)?)?;
    let training = TokenizerTraining {
        model: match arguments.model {
            Model::Bpe => TokenizerModel::Bpe,
            Model::Unigram => TokenizerModel::Unigram,
        },
        vocab_size: arguments.vocab_size,
        lowercase: !arguments.keep_case,
        mask_token: arguments.mask_token,
    };
    let json = train_tokenizer(&captions, training)?;
    if let Some(folder) = arguments.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    sparc_data::shard_writer::write_file_atomically(&arguments.out, json.as_bytes())?;
    let tokenizer = TextTokenizer::from_file(&arguments.out, TRIAL_CONTEXT)?;
    let n_tokens: usize =
        captions.iter().map(|caption| tokenizer.encode(caption).map_or(0, |text| text.ids.len())).sum();
    println!(
        "{}: {} token ids from {} captions, {:.1} tokens a caption{}",
        arguments.out.display(),
        tokenizer.vocab_size(),
        captions.len(),
        n_tokens as f64 / captions.len() as f64,
        if skips.is_empty() { String::new() } else { format!("; {skips}") }
    );
    Ok(())
}
