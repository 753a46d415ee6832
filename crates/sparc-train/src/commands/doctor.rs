//! `sparc doctor`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::ProgressBar;
use sparc_data::shards::expand_shards;
use sparc_data::source::{Patience, Source};
use sparc_data::stage_rates::{Diagnosis, Effort, StageRates, measure_stages};
use sparc_data::transform::{Augmentation, ResizeMode};
use sparc_data::{
    CaptionChoice, DataSet, LastBatch, LoaderConfig, Preparation, Share, TextTokenizer, TokenizerModel,
    TokenizerTraining, read_all_captions, train_tokenizer,
};

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Shards to load: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// Hugging Face tokenizer.json [default: one made from captions of the first shard]
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Side of the network input in pixels
    #[arg(long, default_value_t = 224)]
    image_size: u32,
    /// Decoding threads [default: as many as there are cores]
    #[arg(long)]
    workers: Option<usize>,
    /// Samples in a batch
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
}

/// The context length of CLIP.
const CONTEXT_LENGTH: usize = 77;
/// Long enough for steady numbers on a machine that does something else now and then.
const EFFORT: Effort = Effort { time: Duration::from_secs(2), samples: 512, bytes: 256 << 20 };

pub fn doctor(arguments: &DoctorArguments) -> anyhow::Result<()> {
    ensure!(arguments.image_size > 0 && arguments.batch_size > 0, "--image-size and --batch-size must be above 0");
    let shards = expand_shards(&arguments.data)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tokenizer = match &arguments.tokenizer {
        Some(path) => TextTokenizer::from_file(path, CONTEXT_LENGTH)?,
        None => own_tokenizer(&shards[..1])?,
    };
    let config = LoaderConfig {
        data: vec![DataSet::new(shards.into_iter().map(Source::from).collect())],
        patience: Patience::default(),
        batch_size: arguments.batch_size,
        share: Share::WHOLE,
        last_batch: LastBatch::Drop,
        shuffle_buffer: 1_000,
        shuffle_bytes: Some(256 << 20),
        workers: arguments.workers.unwrap_or(cores),
        prefetch: 2,
        seed: 0,
        max_skipped_share: 1.0,
        preparation: Preparation {
            image_size: arguments.image_size,
            resize: ResizeMode::CenterCrop,
            // open_clip's training transform.
            augmentation: Augmentation { min_crop_area: 0.9, horizontal_flip: false, random_augment: None },
            dct_scaling: false,
            captions: CaptionChoice::First,
            regions: None,
            targets: None,
            seed: 0,
        },
    };
    let spinner = ProgressBar::new_spinner().with_message("measuring each stage alone, about twenty seconds");
    spinner.enable_steady_tick(Duration::from_millis(200));
    let rates = measure_stages(&config, &tokenizer, EFFORT);
    spinner.finish_and_clear();
    let rates = rates?;
    let diagnosis = rates.diagnose(cores);
    if arguments.json {
        println!("{:#}", serde_json::json!({"rates": rates, "diagnosis": diagnosis}));
    } else {
        print!("{}", text(&rates, &diagnosis));
    }
    Ok(())
}

/// A tokenizer made on the spot: it costs as much as another.
fn own_tokenizer(shards: &[PathBuf]) -> anyhow::Result<TextTokenizer> {
    const VOCABULARY: usize = 4_096;
    let (captions, skips) = read_all_captions(shards)?;
    let training =
        TokenizerTraining { model: TokenizerModel::Bpe, vocab_size: VOCABULARY, lowercase: true, mask_token: false };
    let json = train_tokenizer(&captions, training)
        .with_context(|| format!("no captions in {}; give --tokenizer ({skips})", shards[0].display()))?;
    let folder = std::env::temp_dir().join(format!("sparc-doctor-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("tokenizer.json");
    let tokenizer = std::fs::write(&path, json)
        .map_err(anyhow::Error::from)
        .and_then(|()| TextTokenizer::from_file(&path, CONTEXT_LENGTH).map_err(anyhow::Error::from));
    std::fs::remove_dir_all(&folder)?;
    tokenizer
}

fn text(rates: &StageRates, diagnosis: &Diagnosis) -> String {
    let (width, height) = rates.median_size;
    let mut text = format!(
        "{} samples of {:.0} KB, median image {width}x{height}, to {2}x{2}\n\n",
        rates.samples,
        rates.bytes_per_sample / 1e3,
        rates.image_size
    );
    text.push_str("stage      threads   samples/s   on one thread\n");
    for stage in &rates.stages {
        text.push_str(&format!(
            "{:<10} {:>7} {:>11.0} {:>15.0}\n",
            stage.stage, stage.threads, stage.samples_per_s, stage.one_thread_per_s
        ));
    }
    text.push_str(&format!("\nthe loader as a whole: {:.0} samples/s\n", rates.loader_per_s));
    let who = match diagnosis.bound_by {
        "workers" => "decode, resize and tokenise together",
        "reader" => "fetch and untar together",
        _ => "collate",
    };
    text.push_str(&format!(
        "bound by the {}: {who} allow {:.0} samples/s, and {} takes most of it\n",
        diagnosis.bound_by, diagnosis.samples_per_s, diagnosis.stage
    ));
    text.push_str("what would help:\n");
    for advice in &diagnosis.advice {
        text.push_str(&format!("  - {advice}\n"));
    }
    text
}
