//! Tests of the Prompter: the fast read-outs against the plain layer, encodings against scalar loops.

use sparc_testing::{assert_close, check_gradient, random, scalar, values};
use tch::Device;

use super::*;
use crate::Parameters;

const WIDTH: i64 = 16;

fn prompter(readout: Readout, box_encoding: BoxEncoding, kind: Kind) -> (Prompter, BoxRegressor, Parameters) {
    let builder = ParameterBuilder::new(3, kind, Device::Cpu);
    let prompter = Prompter::new(&builder.under("a"), PrompterConfig { box_encoding, readout }, (WIDTH, 6), true);
    let regressor = BoxRegressor::new(&builder.under("b"), WIDTH, 6);
    (prompter, regressor, builder.finish())
}

fn boxes(b: i64, s: i64, kind: Kind) -> Tensor {
    let low = random(&[b, s, 2], 5).sigmoid() * 0.5;
    let high = &low + random(&[b, s, 2], 6).sigmoid() * 0.5;
    Tensor::cat(&[low, high], 2).to_kind(kind)
}

/// The plain layer over the prompt and the image's tokens, one prompt after the other.
fn plain(prompter: &Prompter, patches_bpw: &Tensor, prompts_bskw: &Tensor) -> Tensor {
    let (b, s, k, w) = prompts_bskw.size4().unwrap();
    let one = |image: i64, slot: i64| {
        let sequence = Tensor::cat(&[prompts_bskw.get(image).get(slot), patches_bpw.get(image)], 0).unsqueeze(0);
        let output = prompter.norm.forward(&prompter.block.forward(&sequence, None)).squeeze_dim(0);
        let read = if prompter.readout == Readout::GapAll { output } else { output.narrow(0, 0, k) };
        read.mean_dim([0i64].as_slice(), false, None::<Kind>)
    };
    let all: Vec<Tensor> = (0..b * s).map(|row| one(row / s, row % s)).collect();
    Tensor::stack(&all, 0).view([b, s, w])
}

#[test]
fn fast_read_outs_are_the_plain_layer() {
    for readout in [Readout::GapAll, Readout::PromptMean] {
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-6)] {
            let (prompter, regressor, _) = prompter(readout, BoxEncoding::Sinusoidal, kind);
            let patches = random(&[3, 5, WIDTH], 1).to_kind(kind);
            let valid = Tensor::from_slice(&[true, false, true, false, false, false]).view([3, 2]);
            let phrases = regressor.prompts(&random(&[3, 2, 6], 2).to_kind(kind));
            for prompts in [prompter.box_prompts(&boxes(3, 2, kind), WIDTH), phrases] {
                let (fast, plain) = tch::no_grad(|| {
                    (prompter.pool(&prompter.look(&patches), &prompts, &valid), plain(&prompter, &patches, &prompts))
                });
                let difference = (fast - plain).abs().masked_fill(&valid.unsqueeze(-1).logical_not(), 0.0);
                let largest = scalar(&difference.max());
                assert!(largest < tolerance, "{readout:?} {kind:?}: {largest:e}");
            }
        }
    }
}

#[test]
fn a_box_has_the_sines_and_cosines_of_its_corners() {
    let (prompter, ..) = prompter(Readout::PromptMean, BoxEncoding::Sinusoidal, Kind::Double);
    let corners = [0.1f64, 0.2, 0.6, 0.9];
    let prompts = prompter.box_prompts(&Tensor::from_slice(&corners).view([1, 1, 4]), WIDTH);
    assert_eq!(prompts.size(), [1, 1, 2, WIDTH]);
    let half = WIDTH as usize / 2;
    for (index, value) in values(&prompts).into_iter().enumerate() {
        let (corner, place) = (index / WIDTH as usize, index % WIDTH as usize);
        let (axis, k) = (place / half, place % half % (half / 2));
        let angle = 1000.0 * corners[2 * corner + axis] / 10_000f64.powf(2.0 * k as f64 / half as f64);
        let expected = if place % half < half / 2 { angle.sin() } else { angle.cos() };
        assert_close(value, expected, 1e-9);
    }
}

#[test]
fn fourier_corners_have_roles_and_fixed_frequencies() {
    let (prompter, _, parameters) = prompter(Readout::PromptMean, BoxEncoding::Fourier, Kind::Double);
    let boxes = Tensor::from_slice(&[0.3f64, 0.7, 0.3, 0.7]).view([1, 1, 4]);
    let prompts = prompter.box_prompts(&boxes, WIDTH);
    let (g, roles) = (values(parameters.get("a.frequencies").unwrap()), values(parameters.get("a.roles").unwrap()));
    let half = WIDTH as usize / 2;
    for (index, value) in values(&prompts).into_iter().enumerate() {
        let k = index % half;
        let angle = std::f64::consts::TAU * ((2.0 * 0.3 - 1.0) * g[k] + (2.0 * 0.7 - 1.0) * g[half + k]);
        let wave = if index % (WIDTH as usize) < half { angle.sin() } else { angle.cos() };
        assert_close(value, wave + roles[index], 1e-9);
    }
    prompts.sum(Kind::Double).backward();
    assert!(parameters.get("a.roles").unwrap().grad().defined());
    assert!(!parameters.get("a.frequencies").unwrap().grad().defined());
}

#[test]
fn a_prediction_starts_in_the_middle() {
    let (_, regressor, _) = prompter(Readout::PromptMean, BoxEncoding::Sinusoidal, Kind::Double);
    let zero = Tensor::zeros([1, 1, WIDTH], tch::kind::DOUBLE_CPU);
    assert_eq!(values(&regressor.boxes(&zero)), BoxRegressor::START);
}

#[test]
fn gradients_reach_patches_and_parameters_even_without_a_region() {
    for readout in [Readout::GapAll, Readout::PromptMean] {
        let (prompter, regressor, parameters) = prompter(readout, BoxEncoding::Sinusoidal, Kind::Double);
        let (boxes, phrases) = (boxes(2, 2, Kind::Double), random(&[2, 2, 6], 8));
        let run = |patches: &Tensor, valid: &Tensor| {
            let images = prompter.look(patches);
            let regions = prompter.project(&prompter.pool(&images, &prompter.box_prompts(&boxes, WIDTH), valid));
            let predicted = regressor.boxes(&prompter.pool(&images, &regressor.prompts(&phrases), valid));
            let picked = |rows: Tensor| rows.where_self(&valid.unsqueeze(-1), &rows.zeros_like()).square();
            picked(regions).sum(Kind::Double) + picked(predicted).sum(Kind::Double)
        };
        let patches = random(&[2, 3, WIDTH], 7);
        check_gradient(&patches, 1e-6, |patches| {
            run(patches, &Tensor::from_slice(&[true, true, false, true]).view([2, 2]))
        });
        for (name, tensor) in parameters.iter() {
            assert!(tensor.grad().defined() && scalar(&tensor.grad().abs().max()) > 0.0, "{readout:?}: {name}");
            tensor.shallow_clone().zero_grad();
        }
        run(&patches, &Tensor::zeros([2, 2], (Kind::Bool, Device::Cpu))).backward();
        for (name, tensor) in parameters.iter() {
            assert_eq!(scalar(&tensor.grad().abs().max()), 0.0, "{readout:?}: {name}");
        }
    }
}
