//! A network whose answers are known, so that every number can be computed by hand.

use std::cell::Cell;
use std::convert::Infallible;

use proptest::prelude::*;
use sparc_core::objectives::pacl::PooledPatches;
use sparc_core::{
    Encoder, EvalSample, FineRegion, ImageFeatures, LabelMap, PairScore, PatchGrid, PatchPath, Region, RegionEncoder,
    TextBatch, TextFeatures, Tokenize,
};
use tch::{Device, Kind, Tensor};

use super::features::TextEmbedder;
use super::*;
use crate::metrics::Interval;
use crate::metrics::upsample::Upsampling;

/// The words that the fake network knows; everything else is one more concept.
const WORDS: [&str; 6] = ["cat", "dog", "bird", "tree", "car", "sky"];
const WIDTH: i64 = WORDS.len() as i64 + 1;
/// Pixels and cells per side.
const SIDE: usize = 8;
const GRID: usize = 4;

/// Finds the first known word of a text.
struct WordTokenizer;

fn concept(text: &str) -> i64 {
    let mut words = text.split(|letter: char| !letter.is_alphanumeric());
    words.find_map(|word| WORDS.iter().position(|known| *known == word)).unwrap_or(WORDS.len()) as i64
}

impl Tokenize for WordTokenizer {
    fn tokenize(&self, texts: &[&str]) -> TextBatch {
        // The second id is the length, which only changes the embedding's norm.
        let ids: Vec<i64> = texts.iter().flat_map(|text| [concept(text), text.len() as i64]).collect();
        let ids_bl = Tensor::from_slice(&ids).view([-1, 2]);
        let mask_bl = Tensor::ones([texts.len() as i64, 2], (Kind::Bool, Device::Cpu));
        TextBatch { ids_bl, content_bl: mask_bl.shallow_clone(), mask_bl }
    }

    fn pieces(&self, text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }
}

/// Reads concepts from pixels: channel 0 of a cell is its concept, channel 1 that of the image.
/// Channel 2 at the origin asks for a NaN (1: pooled, 2: in a patch). Norms differ from concept to
/// concept and from text to text: who forgets to normalise gets other numbers.
struct PixelReader {
    /// Added to every concept read from an image; 0 is a perfect network.
    error: i64,
    /// Every image and text gets the same embedding.
    is_constant: bool,
    /// A parameter that wants gradients.
    scale: Tensor,
    n_texts: Cell<usize>,
}

impl PixelReader {
    fn new(error: i64) -> PixelReader {
        let scale = Tensor::from(2.5f32).set_requires_grad(true);
        PixelReader { error, is_constant: false, scale, n_texts: Cell::new(0) }
    }

    fn one_hot(&self, concepts: &Tensor, error: i64) -> Tensor {
        let features = if self.is_constant {
            Tensor::ones([concepts.size(), vec![WIDTH]].concat(), (Kind::Float, Device::Cpu))
        } else {
            (concepts.to_kind(Kind::Int64) + error).remainder(WIDTH).one_hot(WIDTH).to_kind(Kind::Float)
        };
        let features = features * (concepts.unsqueeze(-1) + 1.0) * &self.scale;
        assert!(!features.requires_grad(), "evaluation builds no graph");
        features
    }
}

impl Encoder for PixelReader {
    fn image_size(&self) -> (i64, i64) {
        (SIDE as i64, SIDE as i64)
    }

    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        let step = (SIDE / GRID) as i64;
        let cells = images_bchw.select(1, 0).slice(1, None, None, step).slice(2, None, None, step).contiguous();
        let path_error = if path == PatchPath::Local { 1 } else { 0 };
        let mut patches_bpd = self.one_hot(&cells.view([-1, (GRID * GRID) as i64]), self.error + path_error);
        let mut pooled_bd = self.one_hot(&images_bchw.select(1, 1).select(1, 0).select(1, 0), self.error);
        let flag_b = images_bchw.select(1, 2).select(1, 0).select(1, 0);
        pooled_bd = pooled_bd.masked_fill(&flag_b.eq(1.0).unsqueeze(-1), f64::NAN);
        patches_bpd = patches_bpd.masked_fill(&flag_b.eq(2.0).view([-1, 1, 1]), f64::INFINITY);
        ImageFeatures { pooled_bd, patches_bpd, grid: PatchGrid { height: GRID as i64, width: GRID as i64 } }
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        self.n_texts.set(self.n_texts.get() + text.len() as usize);
        let length_b11 = text.ids_bl.slice(1, 1, 2, 1).unsqueeze(-1);
        let tokens_bld = self.one_hot(&text.ids_bl.slice(1, 0, 1, 1), 0) * (length_b11 + 1);
        TextFeatures { pooled_bd: tokens_bld.select(1, 0), tokens_bld, mask_bl: text.mask_bl.narrow(1, 0, 1) }
    }
}

/// An image of the word, whose cells show the words of `cells` (row-major, one letter each; the first
/// letter of the word, `.` for none).
fn sample(key: &str, word: &str, cells: &str) -> EvalSample {
    let of_letter = |letter: char| WORDS.iter().position(|word| word.starts_with(letter)).unwrap_or(WORDS.len());
    // `c` is cat; car is written `r`.
    let cells: Vec<usize> = cells.chars().map(|letter| if letter == 'r' { 4 } else { of_letter(letter) }).collect();
    assert_eq!(cells.len(), GRID * GRID);
    let mut pixels = vec![0.0f32; 3 * SIDE * SIDE];
    for y in 0..SIDE {
        for x in 0..SIDE {
            pixels[y * SIDE + x] = cells[y * GRID / SIDE * GRID + x * GRID / SIDE] as f32;
            pixels[(SIDE + y) * SIDE + x] = concept(word) as f32;
        }
    }
    let side = SIDE as i64;
    EvalSample {
        key: key.to_owned(),
        image_chw: Tensor::from_slice(&pixels).view([3, side, side]),
        pixels: vec![0; SIDE * SIDE * 3],
        captions: Vec::new(),
        regions: None,
        fine_regions: Vec::new(),
        hard_negatives: Vec::new(),
        statements: Vec::new(),
        caption_pairs: Vec::new(),
        questions: Vec::new(),
        class: None,
        segmentation: None,
    }
}

const NOTHING: &str = "................";

fn captioned(key: &str, word: &str, captions: &[&str]) -> EvalSample {
    EvalSample { captions: captions.iter().map(|text| (*text).to_owned()).collect(), ..sample(key, word, NOTHING) }
}

fn region(text: &str, box_xyxy: [f32; 4]) -> Region {
    Region { box_xyxy, text: text.to_owned() }
}

/// A label map of `scale` pixels per cell and side, from one digit per cell (`#` is 255).
fn label_map(cells: &str, scale: usize) -> LabelMap {
    let cells: Vec<u8> = cells.bytes().map(|cell| if cell == b'#' { 255 } else { cell - b'0' }).collect();
    let side = GRID * scale;
    let labels = (0..side * side).map(|pixel| cells[pixel / side / scale * GRID + pixel % side / scale]).collect();
    LabelMap { height: side, width: side, labels }
}

fn ask(change: impl FnOnce(&mut EvalRequest)) -> EvalRequest {
    let mut request = EvalRequest::new(Device::Cpu);
    change(&mut request);
    request
}

fn run(
    network: &PixelReader,
    samples: impl IntoIterator<Item = EvalSample>,
    request: &EvalRequest,
) -> Result<EvalResults, EvalError> {
    evaluate(network, &WordTokenizer, samples.into_iter().map(Ok::<_, Infallible>), request, &mut |_| {})
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

fn classes(json: &str) -> Option<ClassSet> {
    Some(ClassSet::from_json(json).expect("a class list"))
}

fn segmentation_classes(json: &str) -> Option<SegmentationClasses> {
    Some(SegmentationClasses::from_json(json).expect("segmentation classes"))
}

// Regions.

/// Reads the concept at the centre of a box, and finds the cells of a phrase's concept.
struct Localizer(PixelReader);

impl Encoder for Localizer {
    fn image_size(&self) -> (i64, i64) {
        self.0.image_size()
    }

    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        self.0.encode_images(images_bchw, path)
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        self.0.encode_text(text)
    }

    fn region_encoder(&self) -> Option<&dyn RegionEncoder> {
        Some(self)
    }
}

impl RegionEncoder for Localizer {
    fn encode_regions(&self, images_bchw: &Tensor, boxes_bs4: &Tensor, valid_bs: &Tensor) -> Tensor {
        let (b, s) = valid_bs.size2().unwrap();
        let centre = |image: i64, slot: i64, axis: i64| {
            let corner = |index: i64| boxes_bs4.double_value(&[image, slot, index]);
            ((corner(axis) + corner(axis + 2)) / 2.0 * SIDE as f64) as i64
        };
        let concepts: Vec<i64> = (0..b * s)
            .map(|row| (row / s, row % s))
            .map(|(i, j)| images_bchw.double_value(&[i, 0, centre(i, j, 1), centre(i, j, 0)]) as i64)
            .collect();
        self.0.one_hot(&Tensor::from_slice(&concepts).view([b, s]), self.0.error)
    }

    fn ground_phrases(&self, images_bchw: &Tensor, phrases_bsd: &Tensor, valid_bs: &Tensor) -> Option<Tensor> {
        let (b, s) = valid_bs.size2().unwrap();
        let concept_bs = phrases_bsd.argmax(2, false);
        let mut boxes = Vec::new();
        for (i, j) in (0..b * s).map(|row| (row / s, row % s)) {
            let is_here = images_bchw.get(i).get(0).eq(concept_bs.int64_value(&[i, j]));
            let span = |dim: i64| {
                let places = Vec::<i64>::try_from(is_here.any_dim(dim, false).nonzero().view([-1])).unwrap();
                let share = |place: Option<i64>| place.unwrap_or(0) as f32 / SIDE as f32;
                (share(places.first().copied()), share(places.last().map(|last| last + 1)))
            };
            let ((x0, x1), (y0, y1)) = (span(0), span(1));
            boxes.extend([x0, y0, x1, y1]);
        }
        Some(Tensor::from_slice(&boxes).view([b, s, 4]))
    }
}

/// A cat at the upper left, a dog at the lower right, a tree over half of the bottom.
fn with_regions() -> EvalSample {
    let negatives = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    EvalSample {
        regions: Some(vec![
            region("cat", [0.0, 0.0, 0.5, 0.5]),
            region(" dog ", [0.75, 0.75, 1.0, 1.0]),
            region("cat", [0.0, 0.75, 0.25, 1.0]),
            region("", [0.0, 0.0, 1.0, 1.0]),
            region("sky", [0.5, 0.5, 0.5, 0.6]),
        ]),
        fine_regions: vec![FineRegion {
            region: region("the dog", [0.75, 0.75, 1.0, 1.0]),
            hard: negatives(&["a cat", "one bird"]),
            medium: Vec::new(),
            easy: negatives(&["one more dog"]),
            trivial: negatives(&["tree"]),
        }],
        ..sample("a", "car", "cc..cc......t..d")
    }
}

fn value(measured: Option<Measured>) -> Option<f64> {
    measured.map(|measured| measured.value)
}

fn ask_regions(arms: &[RegionArm], names: Option<&[&str]>) -> EvalRequest {
    let classes = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    ask(|request| request.regions = Some(RegionsRequest { arms: arms.to_vec(), classes }))
}

#[test]
fn regions_are_named_found_and_chosen() {
    // The third region says cat where the picture has a tree.
    let run = |request: &EvalRequest| {
        let samples = [with_regions(), sample("b", "cat", NOTHING)].map(Ok::<_, Infallible>);
        let network = Localizer(PixelReader::new(0));
        evaluate(&network, &WordTokenizer, samples.into_iter(), request, &mut |_| {}).unwrap()
    };
    let results = run(&ask_regions(&RegionArm::ALL, None)).regions.unwrap();
    assert_eq!((results.n_images, results.n_regions, results.n_phrases), (1, 3, 2));
    assert_eq!((results.n_without_regions, results.n_fine_regions), (1, 1));
    assert_eq!(results.arms.len(), 4);
    for arm in &results.arms[..3] {
        // Cat: 1 of 2, where the tree ties for nothing: it is no class, and both names score 0.
        assert!(close(arm.macro_accuracy.unwrap().value, (0.75 + 1.0) / 2.0), "{:?}", arm.arm);
        assert!(close(arm.micro_accuracy.unwrap().value, (1.0 + 0.5 + 1.0) / 3.0), "{:?}", arm.arm);
        assert_eq!(arm.region_to_text_recall.map(value), [Some(1.0); 2]);
        // The true dog wins over others, and ties with another text of the same concept.
        assert_eq!(arm.choice.map(value), [Some(1.0), None, Some(0.5), Some(1.0)]);
        // A single image can only be drawn again.
        let single = [arm.macro_accuracy, arm.micro_accuracy, arm.region_to_text_recall[0], arm.choice[2]];
        for Measured { value, interval } in single.map(Option::unwrap) {
            assert!(close(interval.low, value) && close(interval.high, value), "{:?}", arm.arm);
        }
    }
    // Cat has two boxes, the better one is met; the dog's is met.
    let boxes = results.boxes.unwrap();
    assert_eq!((boxes.n_phrases, value(boxes.precision_50), value(boxes.mean_iou)), (2, Some(1.0), Some(1.0)));

    let listed = run(&ask_regions(&[RegionArm::Head], Some(&["cat", "tree", "bird"]))).regions.unwrap();
    assert_eq!((listed.n_classes, listed.n_without_class), (3, 1));
    assert_eq!((value(listed.arms[0].macro_accuracy), value(listed.arms[0].micro_accuracy)), (Some(0.5), Some(0.5)));
}

#[test]
fn images_are_resampled_with_all_their_regions() {
    // Twelve images of a cat's or a dog's picture, whose regions all say cat.
    let pictures = |n_regions: usize| {
        (0..12).map(move |index| EvalSample {
            regions: Some((0..n_regions).map(|_| region("cat", [0.0, 0.0, 0.5, 0.5])).collect()),
            ..sample(&index.to_string(), "cat", if index < 6 { "cc..cc.........." } else { "dd..dd.........." })
        })
    };
    let accuracy = |n_regions: usize| {
        let request = ask_regions(&[RegionArm::Patches], Some(&["cat", "dog"]));
        let results = run(&PixelReader::new(0), pictures(n_regions), &request).unwrap().regions.unwrap();
        results.arms[0].micro_accuracy.unwrap()
    };
    // Twelve tosses of a coin: the ends are its quantiles 0.025 and 0.975, 3 and 9 of 12.
    assert_eq!(accuracy(1), Measured { value: 0.5, interval: Interval { low: 0.25, high: 0.75 } });
    // Five regions an image are no more images.
    assert_eq!(accuracy(5), accuracy(1));
}

#[test]
fn a_network_without_a_region_head_has_the_other_arms() {
    let results = run(&PixelReader::new(0), [with_regions()], &ask_regions(&RegionArm::ALL, None)).unwrap();
    let keys: Vec<String> = results.flatten().into_iter().map(|(key, _)| key).collect();
    assert!(
        keys.contains(&"regions_crop_mAcc".to_owned())
            && !keys.iter().any(|key| key.contains("head") || key.contains("box"))
    );
    let none =
        run(&PixelReader::new(0), [sample("a", "cat", NOTHING)], &ask_regions(&RegionArm::ALL, None)).unwrap_err();
    assert!(none.to_string().contains("regions has nothing to evaluate"), "{none}");
    let empty = run(&PixelReader::new(0), [with_regions()], &ask_regions(&[], None)).unwrap_err();
    assert!(empty.to_string().contains("regions.arms"), "{empty}");
}

// Retrieval.

#[test]
fn retrieval_with_several_captions_and_images_without() {
    let samples = || {
        vec![
            captioned("a", "cat", &["a cat", "one more cat", " "]),
            captioned("none", "bird", &[]),
            captioned("b", "dog", &["a dog"]),
            captioned("blank", "sky", &["", "\t"]),
            captioned("c", "tree", &["the tree", "a dog by mistake"]),
        ]
    };
    let results = run(&PixelReader::new(0), samples(), &ask(|request| request.retrieval = true)).unwrap();
    let retrieval = results.retrieval.unwrap();
    assert_eq!(results.n_images, 5);
    assert_eq!((retrieval.n_images, retrieval.n_captions), (3, 5));
    assert_eq!((retrieval.n_without_captions, retrieval.n_empty_captions), (2, 3));
    // cat: two own captions tie for first. dog: own ties with the mistaken one: half. tree: first.
    assert!(close(retrieval.ranks.image_to_text_recall[0].value, (1.0 + 0.5 + 1.0) / 3.0));
    // The mistaken caption finds "dog" first, then cat and tree tie: its image is at rank 2.5.
    assert!(close(retrieval.ranks.text_to_image_recall[0].value, 4.0 / 5.0));
    assert!(close(retrieval.ranks.text_to_image_mean_rank, (4.0 + 2.5) / 5.0));
    assert_eq!(retrieval.ranks.text_to_image_median_rank, 1.0);
    for Measured { value, interval } in
        retrieval.ranks.image_to_text_recall.into_iter().chain(retrieval.ranks.text_to_image_recall)
    {
        assert!(interval.low <= value && value <= interval.high);
    }
    assert_eq!(
        (retrieval.ranks.image_to_text_recall[2].value, retrieval.ranks.text_to_image_recall[2].value),
        (1.0, 1.0)
    );
}

#[test]
fn retrieval_of_a_wrong_network_finds_nothing() {
    let samples = || WORDS.map(|word| captioned(word, word, &[word]));
    let right = run(&PixelReader::new(0), samples(), &ask(|request| request.retrieval = true)).unwrap();
    assert_eq!(right.retrieval.unwrap().ranks.image_to_text_recall[0].value, 1.0);
    let wrong = run(&PixelReader::new(1), samples(), &ask(|request| request.retrieval = true)).unwrap();
    // Every caption finds another image first, but the one that finds nothing (all six tie).
    assert!(close(wrong.retrieval.unwrap().ranks.text_to_image_recall[0].value, 1.0 / 36.0));
}

#[test]
fn patches_are_compared_along_the_local_path_where_the_objective_does() {
    // The local path adds one to every concept: this network is right there, and wrong when pooled.
    let network = PixelReader::new(-1);
    let letters = ["c", "d", "b", "t", "r", "s"];
    let samples = || {
        WORDS.iter().zip(letters).enumerate().map(|(class, (word, letter))| EvalSample {
            captions: vec![(*word).to_owned()],
            class: Some(class),
            ..sample(word, word, &letter.repeat(GRID * GRID))
        })
    };
    let list = format!("{WORDS:?}");
    let ask = |score| {
        ask(|request| {
            request.retrieval = true;
            request.classification = classes(&list);
            request.pair_score = score;
        })
    };
    let pooled = run(&network, samples(), &ask(PairScore::Pooled)).unwrap();
    assert!(pooled.retrieval.unwrap().ranks.image_to_text_recall[0].value < 0.1);
    for score in
        [PairScore::TokenMaxima, PairScore::PooledByText { attention_scale: 1.0, pooled_patches: PooledPatches::Unit }]
    {
        let results = run(&network, samples(), &ask(score)).unwrap();
        let retrieval = results.retrieval.unwrap();
        assert_eq!(
            (retrieval.ranks.image_to_text_recall[0].value, retrieval.ranks.text_to_image_recall[0].value),
            (1.0, 1.0)
        );
        assert_eq!(results.classification.unwrap().accuracy_1, 1.0);
        assert_eq!(results.protocol.pair_score, score.name());
    }
}

#[test]
fn scores_of_features_that_are_not_finite_are_an_error() {
    let mut broken = captioned("a", "cat", &["a cat"]);
    let pixel = broken.image_chw.shallow_clone();
    let _ = pixel.select(0, 2).select(0, 0).select(0, 0).fill_(2.0);
    broken.image_chw = pixel;
    let request = ask(|request| {
        request.retrieval = true;
        request.pair_score = PairScore::TokenMaxima;
    });
    let error = run(&PixelReader::new(0), [broken, captioned("b", "dog", &["a dog"])], &request).unwrap_err();
    assert!(matches!(error, EvalError::NonFiniteScore), "{error}");
}

// Classification.

#[test]
fn classification_right_wrong_and_missing() {
    let list = r#"["cat", "dog", "bird", "tree", "car"]"#;
    let request = ask(|request| request.classification = classes(list));
    let labelled = |word: &str, class: usize| EvalSample { class: Some(class), ..sample(word, word, NOTHING) };
    let samples = || vec![labelled("cat", 0), labelled("cat", 0), labelled("dog", 2), sample("none", "car", NOTHING)];
    let network = PixelReader::new(0);
    let result = run(&network, samples(), &request).unwrap().classification.unwrap();
    assert!(close(result.accuracy_1, 2.0 / 3.0));
    assert!(close(result.mean_per_class_recall, 0.5));
    assert_eq!(result.accuracy_5, Some(1.0));
    assert_eq!((result.n_images, result.n_without_class), (3, 1));
    assert!(result.templates.are_default);
    assert_eq!(result.recall_per_class[1], ClassScore { name: "dog".to_owned(), value: None });
    assert_eq!(network.n_texts.get(), 5 * 2, "each prompt is embedded once");
    let wrong = run(&PixelReader::new(3), samples(), &request).unwrap().classification.unwrap();
    assert_eq!(wrong.accuracy_1, 0.0);
}

#[test]
fn class_embedding_is_the_normalised_mean_of_normalised_prompts() {
    let network = PixelReader::new(0);
    let templates = Templates::new(Some(vec!["{}".to_owned(), "{} dog".to_owned(), "{}".to_owned()])).unwrap();
    let request = ask(|request| request.text_batch_size = 2);
    let embedder = TextEmbedder::new(&network, &WordTokenizer, &request);
    // "cat", "cat dog" and "cat" are all cat; "x" is unknown, "x dog" is dog.
    let names = ["cat".to_owned(), "x".to_owned()];
    let embeddings = tch::no_grad(|| embedder.embed_classes(&names, &templates, |_| {})).unwrap();
    let norm = 5.0f32.sqrt();
    let expected = [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0 / norm, 0.0, 0.0, 0.0, 0.0, 2.0 / norm]];
    for (value, expected) in embeddings.iter().zip(expected.as_flattened()) {
        assert!((value - expected).abs() < 1e-6, "{embeddings}");
    }
}

// Segmentation.

/// An image whose left half is cat and right half dog, with the given truth.
fn segmented(seg_cells: &str, scale: usize) -> EvalSample {
    EvalSample { segmentation: Some(label_map(seg_cells, scale)), ..sample("seg", "cat", "ccddccddccddccdd") }
}

const SEG_CLASSES: &str = r#"{"classes": ["background", "cat", "dog", "bird"], "background": 0, "templates": ["{}"]}"#;

#[test]
fn segmentation_of_a_perfect_network() {
    let request = ask(|request| request.segmentation = segmentation_classes(SEG_CLASSES));
    for upsampling in [Upsampling::BilinearScores, Upsampling::NearestLabels] {
        let request = EvalRequest { upsampling, ..request.clone() };
        for scale in [1, 2, 5] {
            let result = run(&PixelReader::new(0), [segmented("1122112211221122", scale)], &request).unwrap();
            let result = result.segmentation.unwrap();
            assert_eq!((result.mean_iou, result.mean_iou_with_background), (1.0, Some(1.0)), "{upsampling:?} {scale}");
            assert_eq!((result.mean_iou_per_image, result.pixel_accuracy), (1.0, 1.0));
            assert_eq!(result.iou_per_class[2], ClassScore { name: "bird".to_owned(), value: None });
        }
    }
}

#[test]
fn segmentation_hand_computed_with_background_and_ignore() {
    let request = ask(|request| request.segmentation = segmentation_classes(SEG_CLASSES));
    let samples = vec![
        segmented("112211221122032#", 3),
        segmented("1122112211221122", 3),
        sample("none", "cat", NOTHING),
        segmented("0000000000000000", 3),
    ];
    // Every row is predicted cat cat dog dog. First image, in cells: cat TP 6, and FP one bird and one
    // background; dog TP 7, one cell ignored; bird TP 0 of 1.
    let result = run(&PixelReader::new(0), samples, &request).unwrap().segmentation.unwrap();
    // Whole set: cat TP 6 + 8, FP 1 (bird), background FP 1 + 8; dog TP 7 + 8, background FP 8; bird 0.
    assert!(close(result.mean_iou, (14.0 / 15.0 + 1.0 + 0.0) / 3.0));
    assert!(close(result.mean_iou_with_background.unwrap(), (14.0 / 24.0 + 15.0 / 23.0 + 0.0) / 3.0));
    assert!(close(result.mean_iou_per_image, ((6.0 / 7.0 + 1.0 + 0.0) / 3.0 + 1.0) / 2.0));
    assert!(close(result.mean_iou_per_image_with_background.unwrap(), ((6.0 / 8.0 + 1.0 + 0.0) / 3.0 + 1.0) / 2.0));
    assert_eq!((result.n_images, result.n_without_segmentation, result.n_without_foreground), (3, 1, 1));
}

#[test]
fn segmentation_follows_the_upsampling() {
    // One cell of cat among dogs, 5 x 5 pixels a cell. Bilinear weights of the own cell are 0.6, 0.8, 1, 0.8,
    // 0.6 along each axis; a pixel stays cat where the product is above one half: 13 of 25.
    let lone = || EvalSample {
        segmentation: Some(label_map("2222212222222222", 5)),
        ..sample("lone", "cat", "dddddcdddddddddd")
    };
    for (upsampling, expected) in
        [(Upsampling::NearestLabels, 1.0), (Upsampling::BilinearScores, (13.0 / 25.0 + 375.0 / 387.0) / 2.0)]
    {
        let request = ask(|request| {
            request.segmentation = segmentation_classes(SEG_CLASSES);
            request.upsampling = upsampling;
        });
        let result = run(&PixelReader::new(0), [lone()], &request).unwrap();
        assert!(close(result.segmentation.unwrap().mean_iou, expected), "{upsampling:?}");
    }
}

#[test]
fn segmentation_follows_the_patch_path() {
    let request = ask(|request| {
        request.segmentation = segmentation_classes(r#"["cat", "dog", "bird"]"#);
        request.patch_path = PatchPath::Local;
    });
    // The fake's local path is off by one: cat reads as dog, dog as bird.
    let result = run(&PixelReader::new(0), [segmented("0011001100110011", 2)], &request).unwrap();
    assert_eq!(result.protocol.patch_path, "local");
    let segmentation = result.segmentation.unwrap();
    assert_eq!((segmentation.mean_iou, segmentation.mean_iou_with_background), (0.0, None));
}

// Grounding.

fn grounded(regions: Option<Vec<Region>>) -> EvalSample {
    EvalSample { regions, ..sample("grounded", "cat", "cc..cc........dd") }
}

#[test]
fn grounding_of_a_perfect_network() {
    let request = ask(|request| request.grounding = true);
    let samples = vec![
        grounded(Some(vec![
            region("the cat", [0.0, 0.0, 0.5, 0.5]),
            region("dog", [0.5, 0.75, 1.0, 1.0]),
            region(" ", [0.0, 0.0, 1.0, 1.0]),
            region("dog", [0.5, 0.5, 0.5, 1.0]),
        ])),
        grounded(None),
        grounded(Some(vec![])),
    ];
    let result = run(&PixelReader::new(0), samples, &request).unwrap().grounding.unwrap();
    let all = [result.pointing_accuracy, result.mean_box_iou, result.mean_mask_iou, result.box_accuracy];
    // What is right of every image has no width.
    assert_eq!(all, [Measured { value: 1.0, interval: Interval { low: 1.0, high: 1.0 } }; 4]);
    assert!(close(result.chance, (0.25 + 0.125) / 2.0));
    assert_eq!((result.n_images, result.n_phrases, result.n_boxes), (1, 2, 2));
    assert_eq!((result.n_without_regions, result.n_empty_phrases, result.n_empty_boxes), (2, 1, 1));
}

#[test]
fn grounding_misses_are_counted_by_hand() {
    let request = ask(|request| request.grounding = true);
    // The cat is top left; boxes: its left column (half of it), and the bottom half.
    let samples = vec![
        grounded(Some(vec![region("cat", [0.0, 0.0, 0.25, 0.5])])),
        grounded(Some(vec![region("cat", [0.0, 0.5, 1.0, 1.0])])),
    ];
    let result = run(&PixelReader::new(0), samples, &request).unwrap().grounding.unwrap();
    // The map's plateau of 1 is 3 x 3 of 8 x 8 pixels (top left), of which 2 columns lie in the first box.
    assert!(close(result.pointing_accuracy.value, (2.0 / 3.0 + 0.0) / 2.0));
    assert!(close(result.mean_box_iou.value, (0.5 + 0.0) / 2.0));
    assert!(close(result.mean_mask_iou.value, (0.5 + 0.0) / 2.0));
    // Of two images, a quarter of the resamples has the one that is right alone, a quarter the other.
    assert_eq!(result.box_accuracy, Measured { value: 0.5, interval: Interval { low: 0.0, high: 1.0 } });
}

// All together.

fn mixed_samples() -> Vec<EvalSample> {
    vec![
        EvalSample { class: Some(0), ..captioned("0", "cat", &["a cat", "cat again"]) },
        EvalSample { class: Some(1), ..segmented("1122112211221120", 2) },
        grounded(Some(vec![region("cat", [0.0, 0.0, 0.3, 0.6]), region("dog", [0.6, 0.6, 1.0, 1.0])])),
        captioned("3", "dog", &[]),
        EvalSample { class: Some(4), ..captioned("4", "dog", &["the dog", "a sky", ""]) },
        EvalSample { captions: vec!["bird".to_owned()], ..segmented("2211221132112211", 3) },
        grounded(Some(vec![region("bird", [0.5, 0.0, 1.0, 1.0])])),
    ]
}

fn all_tasks() -> EvalRequest {
    ask(|request| {
        request.retrieval = true;
        request.grounding = true;
        request.classification = classes(r#"["cat", "dog", "bird", "tree", "car"]"#);
        request.segmentation = segmentation_classes(SEG_CLASSES);
    })
}

#[test]
fn batching_changes_nothing() {
    let whole = run(&PixelReader::new(0), mixed_samples(), &all_tasks()).unwrap();
    for (batch_size, text_batch_size) in [(1, 1), (2, 3), (3, 2), (7, 100)] {
        let request = EvalRequest { batch_size, text_batch_size, ..all_tasks() };
        assert_eq!(whole, run(&PixelReader::new(0), mixed_samples(), &request).unwrap(), "batches of {batch_size}");
    }
}

#[test]
fn one_pass_gives_what_single_passes_give() {
    let all = run(&PixelReader::new(0), mixed_samples(), &all_tasks()).unwrap();
    let only = |change: fn(&mut EvalRequest)| {
        let mut request = EvalRequest { retrieval: false, grounding: false, ..all_tasks() };
        (request.classification, request.segmentation) = (None, None);
        change(&mut request);
        run(&PixelReader::new(0), mixed_samples(), &request).unwrap()
    };
    assert_eq!(all.retrieval, only(|request| request.retrieval = true).retrieval);
    assert_eq!(all.grounding, only(|request| request.grounding = true).grounding);
    assert_eq!(all.classification, only(|request| request.classification = all_tasks().classification).classification);
    assert_eq!(all.segmentation, only(|request| request.segmentation = all_tasks().segmentation).segmentation);
}

#[test]
fn a_collapsed_network_scores_chance_everywhere() {
    let network = PixelReader { is_constant: true, ..PixelReader::new(0) };
    let samples = (0..20).map(|index| EvalSample {
        class: Some(index % 5),
        regions: Some(vec![region("cat", [0.0, 0.0, 0.5, 0.25])]),
        ..captioned(&index.to_string(), "cat", &["a cat"])
    });
    let request = EvalRequest { segmentation: None, ..all_tasks() };
    let results = run(&network, samples, &request).unwrap();
    let retrieval = results.retrieval.unwrap();
    assert!(
        close(retrieval.ranks.image_to_text_recall[0].value, 0.05)
            && close(retrieval.ranks.text_to_image_recall[1].value, 0.25)
    );
    assert!(close(results.classification.unwrap().accuracy_1, 0.2));
    let grounding = results.grounding.unwrap();
    assert_eq!(
        (grounding.pointing_accuracy.value, grounding.mean_mask_iou.value, grounding.chance),
        (0.125, 0.125, 0.125)
    );
}

#[test]
fn flat_keys_are_fixed_and_in_order() {
    let results = run(&PixelReader::new(0), mixed_samples(), &all_tasks()).unwrap();
    let keys: Vec<String> = results.flatten().into_iter().map(|(key, _)| key).collect();
    let with_interval = |key: &str| [key.to_owned(), format!("{key}.low"), format!("{key}.high")];
    let recalls =
        ["image_to_text", "text_to_image"].into_iter().flat_map(|way| [1, 5, 10].map(|k| format!("{way}_R@{k}")));
    let grounding = ["pointing_accuracy", "mean_IoU", "mean_mask_IoU", "box_accuracy@0.5"];
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let expected: Vec<String> = (recalls.flat_map(|key| with_interval(&key)))
        .chain(words(
            "image_to_text_mean_rank image_to_text_median_rank text_to_image_mean_rank text_to_image_median_rank \
            zeroshot_acc1 zeroshot_acc5 zeroshot_mean_per_class_recall segmentation_mIoU \
            segmentation_mIoU_with_background segmentation_mIoU_per_image segmentation_mIoU_per_image_with_background \
            segmentation_pixel_accuracy",
        ))
        .chain(grounding.into_iter().flat_map(|key| with_interval(&format!("grounding_{key}"))))
        .chain(with_interval("grounding_box_choice"))
        .chain(words(
            "grounding_box_choice.n grounding_box_choice.chance grounding_chance n_images n_captions n_without_captions n_empty_captions n_classes n_without_class \
            n_segmentation_classes n_without_segmentation n_without_foreground n_phrases n_boxes n_without_regions \
            n_empty_phrases n_empty_boxes",
        ))
        .collect();
    assert_eq!(keys, expected);
    let json = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<EvalResults>(&json).unwrap(), results);
}

#[test]
fn progress_hears_of_classes_batches_and_the_end() {
    let mut heard = Vec::new();
    let samples = mixed_samples().into_iter().map(Ok::<_, Infallible>);
    let request = EvalRequest { batch_size: 4, text_batch_size: 6, ..all_tasks() };
    evaluate(&PixelReader::new(0), &WordTokenizer, samples, &request, &mut |step| heard.push(step)).unwrap();
    let classes = |n_done| Progress::Classes { n_done, n_classes: 8 };
    // Five classes by two templates in batches of six, then three by one; sample `3` has nothing.
    assert_eq!(heard[..3], [classes(3), classes(5), classes(8)]);
    assert_eq!(heard[3..], [Progress::Images { n_done: 5 }, Progress::Images { n_done: 7 }, Progress::Ranking]);
}

// Errors.

#[test]
fn a_task_without_a_usable_sample_names_the_field() {
    let nothing = || [captioned("a", "cat", &[""]), grounded(Some(vec![]))];
    let only = |change: fn(&mut EvalRequest)| run(&PixelReader::new(0), nothing(), &ask(change)).unwrap_err();
    let cases: [(EvalError, &str); 4] = [
        (only(|request| request.retrieval = true), "captions"),
        (only(|request| request.classification = classes(r#"["cat"]"#)), "class"),
        (only(|request| request.segmentation = segmentation_classes(SEG_CLASSES)), "segmentation"),
        (only(|request| request.grounding = true), "regions"),
    ];
    for (error, expected) in cases {
        let text = error.to_string();
        assert!(matches!(error, EvalError::NoUsableSample { field, n_images: 2, .. } if field == expected), "{text}");
        assert!(text.contains("none of 2 images has") && text.contains(expected), "{text}");
    }
}

#[test]
fn features_that_are_not_finite_name_the_sample() {
    let flagged = |flag: f64| {
        let broken = EvalSample { key: "broken".to_owned(), ..mixed_samples().swap_remove(5) };
        let _ = broken.image_chw.get(2).get(0).get(0).fill_(flag);
        mixed_samples().into_iter().chain([broken])
    };
    for (flag, what) in [(1.0, "pooled image embedding"), (2.0, "embedding of patch 0")] {
        let error = run(&PixelReader::new(0), flagged(flag), &all_tasks()).unwrap_err().to_string();
        assert_eq!(error, format!("sample `broken`: the {what} is not finite"));
    }
    let network = PixelReader { scale: Tensor::from(f32::NAN), ..PixelReader::new(0) };
    let error = run(&network, mixed_samples(), &all_tasks()).unwrap_err().to_string();
    assert_eq!(error, "the embedding of the class prompt `cat` is not finite");
    let request = ask(|request| request.grounding = true);
    // Squares overflow: the norm would be infinite and the embedding silently zero.
    let network = PixelReader { scale: Tensor::from(1e30f32), ..PixelReader::new(0) };
    assert!(matches!(run(&network, mixed_samples(), &request), Err(EvalError::NonFinite { .. })));
}

#[test]
fn broken_samples_and_requests_are_refused() {
    let refused = |sample: EvalSample, request: &EvalRequest| {
        run(&PixelReader::new(0), [sample], request).expect_err("a broken sample").to_string()
    };
    let request = all_tasks();
    let class = EvalSample { class: Some(5), ..sample("k", "cat", NOTHING) };
    assert_eq!(refused(class, &request), "sample `k`: class 5 is not in the list of 5 classes");
    let label = segmented("1122112211221129", 1);
    assert_eq!(refused(label, &request), "sample `seg`: label 9 is not in the list of segmentation classes");
    let mut short = segmented("1122112211221122", 1);
    short.segmentation.as_mut().unwrap().labels.pop();
    assert_eq!(refused(short, &request), "sample `seg`: the label map of 4 x 4 pixels holds 15 labels");
    let image_chw = Tensor::zeros([3, 4, 8], (Kind::Float, Device::Cpu));
    let small = EvalSample { image_chw, ..captioned("k", "cat", &["cat"]) };
    assert!(refused(small, &request).starts_with("sample `k`: the image has shape [3, 4, 8]"));

    let none = run(&PixelReader::new(0), mixed_samples(), &ask(|_| {}));
    assert!(matches!(none, Err(EvalError::NothingRequested)));
    let none = run(&PixelReader::new(0), [], &request);
    assert!(matches!(none, Err(EvalError::NoImages)));
    for request in [
        EvalRequest { batch_size: 0, ..all_tasks() },
        EvalRequest { text_batch_size: 0, ..all_tasks() },
        EvalRequest { rerank: Some(0), ..all_tasks() },
        EvalRequest { rerank: Some(5), retrieval: false, ..all_tasks() },
        EvalRequest { heatmap_threshold: f64::NAN, ..all_tasks() },
    ] {
        assert!(matches!(run(&PixelReader::new(0), [], &request), Err(EvalError::InvalidRequest { .. })));
    }
    let unread: [Result<EvalSample, std::io::Error>; 1] = [Err(std::io::Error::other("torn shard"))];
    let error = evaluate(&PixelReader::new(0), &WordTokenizer, unread.into_iter(), &request, &mut |_| {}).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("torn shard"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn order_of_samples_changes_nothing(order in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle()) {
        let before = run(&PixelReader::new(0), mixed_samples(), &all_tasks()).unwrap().flatten();
        let mut samples: Vec<Option<EvalSample>> = mixed_samples().into_iter().map(Some).collect();
        let shuffled: Vec<EvalSample> = order.iter().map(|&index| samples[index].take().unwrap()).collect();
        let after = run(&PixelReader::new(0), shuffled, &all_tasks()).unwrap().flatten();
        for ((key, before), (_, after)) in before.iter().zip(&after) {
            prop_assert!(close(*before, *after), "{key}: {before} and {after}");
        }
    }
}

/// Says the same of every image, or `{key} and no more`.
struct Parrot {
    captions: fn(&str) -> String,
}

impl Encoder for Parrot {
    fn image_size(&self) -> (i64, i64) {
        PixelReader::new(0).image_size()
    }

    fn encode_images(&self, _images_bchw: &Tensor, _path: PatchPath) -> ImageFeatures {
        panic!("captioning alone needs no embeddings")
    }

    fn encode_text(&self, _text: &TextBatch) -> TextFeatures {
        panic!("captioning alone needs no embeddings")
    }

    fn captioner(&self) -> Option<&dyn sparc_core::Caption> {
        Some(self)
    }
}

impl sparc_core::Caption for Parrot {
    fn caption(&self, images_bchw: &Tensor, keys: &[&str]) -> Vec<String> {
        assert_eq!(images_bchw.size()[0], keys.len() as i64);
        keys.iter().map(|key| (self.captions)(key)).collect()
    }

    fn protocol(&self) -> String {
        "by heart".to_owned()
    }
}

fn captioned_by(parrot: &Parrot, batch_size: usize) -> Result<CaptioningResults, EvalError> {
    let samples = [
        captioned("cat sits on a mat", "cat", &["cat sits on a mat", "something else"]),
        captioned("no caption", "dog", &[" "]),
        captioned("dog runs over green grass", "dog", &["dog runs over green grass"]),
        captioned("bird", "bird", &[]),
    ];
    let request = ask(|request| (request.captioning, request.batch_size) = (true, batch_size));
    let samples = samples.into_iter().map(Ok::<_, Infallible>);
    Ok(evaluate(parrot, &WordTokenizer, samples, &request, &mut |_| {})?.captioning.unwrap())
}

#[test]
fn captions_are_scored_against_all_of_an_images_own() {
    let right = captioned_by(&Parrot { captions: |key| key.to_owned() }, 64).unwrap();
    assert_eq!((right.n_images, right.n_references, right.n_without_captions), (2, 3, 2));
    assert_eq!((right.mean_words, right.distinct_captions, right.generation.as_str()), (5.0, 1.0, "by heart"));
    assert!(right.bleu.iter().all(|&bleu| close(bleu, 1.0)) && close(right.rouge_l, 1.0), "{right:?}");
    assert!(right.cider > 4.0, "{right:?}");
    let same = captioned_by(&Parrot { captions: |_| "zebra".to_owned() }, 64).unwrap();
    assert!(same.bleu[0] < 1e-6 && same.cider == 0.0 && same.distinct_captions == 0.5);
    // An empty caption is scored, not refused.
    assert_eq!(captioned_by(&Parrot { captions: |_| String::new() }, 64).unwrap().rouge_l, 0.0);
    for batch_size in [1, 2, 3] {
        assert_eq!(captioned_by(&Parrot { captions: |key| key.to_owned() }, batch_size).unwrap(), right);
    }
}

#[test]
fn captioning_needs_a_captioner_and_a_reference() {
    let request = ask(|request| request.captioning = true);
    let error = run(&PixelReader::new(0), mixed_samples(), &request).unwrap_err();
    assert!(matches!(error, EvalError::NoCaptioner), "{error}");
    let samples = [captioned("a", "cat", &[])].into_iter().map(Ok::<_, Infallible>);
    let parrot = Parrot { captions: |key| key.to_owned() };
    let error = evaluate(&parrot, &WordTokenizer, samples, &request, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("captioning has nothing to evaluate"), "{error}");
}
