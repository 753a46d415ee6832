//! The subcommands of `sparc`, one file each.

mod caption;
mod doctor;
mod embed;
mod eval;
mod heatmaps;
mod inspect;
mod report;
mod score;
mod shards;
mod tokenizer;
mod train;

use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train as a configuration file says
    Train(train::TrainArguments),
    /// Check a configuration file and print what it leads to, without training
    Plan(train::PlanArguments),
    /// Evaluate a run or checkpoint: retrieval, classification, segmentation, grounding, regions, compositional
    /// tests, captioning
    Eval(eval::EvalArguments),
    /// Score how well images and texts fit
    Score(score::ScoreArguments),
    /// Embed an image and regions of it
    Embed(embed::EmbedArguments),
    /// Find phrases in an image: a box for each, as JSON
    Ground(embed::GroundArguments),
    /// Write captions for images or shards
    Caption(caption::CaptionArguments),
    /// Draw which patches each token of a text is grouped with; of ALBEF, where its matching head looks; of SyCoCa, its
    /// masks and what it rebuilds; of CLOC, what is in boxes and where phrases are
    Inspect(inspect::InspectArguments),
    /// Compare runs on a data set: a table, summary.json and report.html
    Report(report::ReportArguments),
    /// Make, convert and look into shards
    #[command(subcommand)]
    Shards(shards::ShardsCommand),
    /// Measure each stage of loading alone, and say which one bounds the rate
    Doctor(doctor::DoctorArguments),
    /// Make a tokenizer
    #[command(subcommand)]
    Tokenizer(tokenizer::TokenizerCommand),
}

impl Command {
    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Train(arguments) => train::train(&arguments),
            Command::Plan(arguments) => train::plan(&arguments),
            Command::Eval(arguments) => eval::eval(&arguments),
            Command::Score(arguments) => score::score(&arguments),
            Command::Embed(arguments) => embed::embed(&arguments),
            Command::Ground(arguments) => embed::ground(&arguments),
            Command::Caption(arguments) => caption::caption(&arguments),
            Command::Inspect(arguments) => inspect::inspect(&arguments),
            Command::Report(arguments) => report::report(&arguments),
            Command::Shards(command) => shards::run(&command),
            Command::Doctor(arguments) => doctor::doctor(&arguments),
            Command::Tokenizer(command) => tokenizer::run(&command),
        }
    }
}
