//! Regions of an image through a trained network: embeddings of boxes, boxes of phrases.
//!
//! Boxes here are `x0, y0, x1, y1` in `[0, 1]` of the image as it is given, whatever frame the network sees it in.

use image::RgbImage;
use sparc_core::tensor_math::{at_least_f32, l2_normalize};
use sparc_core::{Encoder, RegionEncoder, Tokenize};
use sparc_data::decode::DecodedImage;
use sparc_data::pixels::normalize;
use sparc_data::transform::{Frame, Geometry};
use sparc_eval::draw::{LabelledBox, RegionPanel};
use sparc_models::networks::Network;
use tch::{Device, Kind, Tensor};

use crate::error::Error;
use crate::evaluation::Trained;

/// An image as the network sees it.
pub struct Seen {
    /// The frame, to be shown.
    pub pixels: RgbImage,
    /// The frame, normalised, `[3, H, W]`.
    pub input_chw: Tensor,
    /// The way of boxes into the frame and back.
    pub geometry: Geometry,
}

impl Trained {
    /// An upright image in the network's frame, resized as in the run's training.
    pub fn see(&self, image: RgbImage) -> Seen {
        let side = self.plan.config.model.image.image_size as u32;
        let frame = Frame::plain(image.dimensions(), side, self.plan.config.data.resize);
        let pixels = frame.render(&DecodedImage::from(image));
        let input_chw = Tensor::from_slice(&normalize(&pixels)).view([3, i64::from(side), i64::from(side)]);
        let pixels = RgbImage::from_raw(side, side, pixels).expect("a frame has side × side pixels");
        Seen { pixels, input_chw, geometry: frame.geometry() }
    }

    /// L2-normalised embeddings of the boxes of an image, `[R, D]`, to be compared with [`Trained::encode_texts`].
    ///
    /// # Errors
    ///
    /// A network without a region head, or a box that is none or lies outside what the network sees.
    pub fn encode_regions(&self, image: RgbImage, boxes: &[[f32; 4]]) -> Result<Tensor, Error> {
        let seen = self.see(image);
        let placed = boxes.iter().map(|&corners| place(&seen.geometry, corners)).collect::<Result<Vec<_>, _>>()?;
        self.embed_boxes(&seen.input_chw, &placed)
    }

    /// Where each phrase is in an image: a box for each.
    ///
    /// # Errors
    ///
    /// A network that predicts no boxes.
    pub fn encode_phrases(&self, image: RgbImage, phrases: &[&str]) -> Result<Vec<[f32; 4]>, Error> {
        let seen = self.see(image);
        let found = self.find_phrases(&seen.input_chw, phrases)?;
        Ok(found.into_iter().map(|corners| seen.geometry.unmap_box(corners)).collect())
    }

    /// L2-normalised embeddings of texts, `[N, D]`.
    pub fn encode_texts(&self, texts: &[&str]) -> Tensor {
        tch::no_grad(|| l2_normalize(&at_least_f32(&self.network.encode_text(&self.tokenize(texts)).pooled_bd)))
    }

    /// For a picture: each box of an image, all in the network's frame, with the phrase nearest to it.
    ///
    /// # Errors
    ///
    /// A network without a region head.
    ///
    /// # Panics
    ///
    /// Without boxes or phrases.
    pub fn nearest_phrases(
        &self,
        input_chw: &Tensor,
        boxes: &[[f32; 4]],
        phrases: &[&str],
    ) -> Result<RegionPanel, Error> {
        let cosine_rn = self.embed_boxes(input_chw, boxes)?.matmul(&self.encode_texts(phrases).tr());
        let (best_r, phrase_r) = cosine_rn.max_dim(1, false);
        let phrase_of_box = Vec::<i64>::try_from(phrase_r.to_device(Device::Cpu)).expect("indices");
        let label = |((corners, phrase), cosine): ((&[f32; 4], i64), f32)| LabelledBox {
            corners: *corners,
            label: format!("{} ({cosine:.2})", phrases[phrase as usize]),
        };
        Ok(RegionPanel {
            heading: "boxes, with the nearest phrase (cosine)".into(),
            boxes: boxes.iter().zip(phrase_of_box).zip(numbers(&best_r)).map(label).collect(),
        })
    }

    /// For a picture: each phrase with its predicted box in the network's frame.
    ///
    /// # Errors
    ///
    /// A network that predicts no boxes.
    pub fn predicted_boxes(&self, input_chw: &Tensor, phrases: &[&str]) -> Result<RegionPanel, Error> {
        let found = self.find_phrases(input_chw, phrases)?;
        let label = |(corners, phrase): ([f32; 4], &&str)| LabelledBox { corners, label: (*phrase).to_owned() };
        Ok(RegionPanel {
            heading: "phrases, with the predicted box".into(),
            boxes: found.into_iter().zip(phrases).map(label).collect(),
        })
    }

    /// Whether the network predicts boxes of phrases.
    pub fn predicts_boxes(&self) -> bool {
        match &self.network {
            Network::DualEncoder(network) => network.config().heads.grounding,
            Network::Coca(_) | Network::Albef(_) => false,
        }
    }

    fn embed_boxes(&self, input_chw: &Tensor, boxes: &[[f32; 4]]) -> Result<Tensor, Error> {
        let regions = self.region_encoder("embeds no regions")?;
        let boxes_1s4 = Tensor::from_slice(&boxes.concat()).view([1, -1, 4]).to_device(self.plan.device());
        let valid_1s = all_valid(boxes.len(), self.plan.device());
        let embedded = tch::no_grad(|| regions.encode_regions(&self.one(input_chw), &boxes_1s4, &valid_1s));
        Ok(tch::no_grad(|| l2_normalize(&at_least_f32(&embedded.squeeze_dim(0)))))
    }

    /// Boxes of phrases in the network's frame.
    fn find_phrases(&self, input_chw: &Tensor, phrases: &[&str]) -> Result<Vec<[f32; 4]>, Error> {
        const LACK: &str = "predicts no boxes";
        let regions = self.region_encoder(LACK)?;
        if phrases.is_empty() {
            return Ok(Vec::new());
        }
        let found = tch::no_grad(|| {
            let phrases_1sd = self.network.encode_text(&self.tokenize(phrases)).pooled_bd.unsqueeze(0);
            let valid_1s = all_valid(phrases.len(), self.plan.device());
            regions.ground_phrases(&self.one(input_chw), &phrases_1sd, &valid_1s)
        });
        let found = numbers(&found.ok_or_else(|| self.unable(LACK))?);
        Ok(found.chunks_exact(4).map(|corners| [corners[0], corners[1], corners[2], corners[3]]).collect())
    }

    fn region_encoder(&self, lack: &'static str) -> Result<&dyn RegionEncoder, Error> {
        self.network.region_encoder().ok_or_else(|| self.unable(lack))
    }

    fn unable(&self, lack: &'static str) -> Error {
        Error::Unable { checkpoint: self.checkpoint.clone(), objective: self.plan.config.objective.name(), lack }
    }

    fn tokenize(&self, texts: &[&str]) -> sparc_core::TextBatch {
        self.tokenizer.tokenize(texts).to_device(self.plan.device())
    }

    fn one(&self, input_chw: &Tensor) -> Tensor {
        input_chw.unsqueeze(0).to_device(self.plan.device())
    }
}

fn all_valid(n: usize, device: Device) -> Tensor {
    Tensor::ones([1, n as i64], (Kind::Bool, device))
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_kind(Kind::Float).to_device(Device::Cpu).contiguous().view([-1]);
    Vec::try_from(flat).expect("a tensor of numbers")
}

/// A box of the image in the network's frame.
fn place(geometry: &Geometry, corners: [f32; 4]) -> Result<[f32; 4], Error> {
    let [x0, y0, x1, y1] = corners;
    let is_box = corners.iter().all(|share| (0.0..=1.0).contains(share)) && x0 < x1 && y0 < y1;
    let reason = if is_box {
        "lies outside what the network sees of the image"
    } else {
        "is no box: give x0,y0,x1,y1 with x0 < x1 and y0 < y1, in [0, 1] of the image"
    };
    let placed = if is_box { geometry.map_box(corners, 0.0) } else { None };
    placed.ok_or(Error::Region { corners, reason })
}
