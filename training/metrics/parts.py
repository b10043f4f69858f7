"""The parts of an evaluation: each measures one thing and adds its tables to the report.

Shapes: N pictures, D features, C classes; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.model import NVG
from nvg_model.render import to_pixels
from training.data.augmentation import stream
from training.data.dataset import open_dataset
from training.errors import TrainingError
from training.files import replacing
from training.losses.reconstruction import psnr, ssim
from training.metrics import adherence as following
from training.metrics import cost
from training.metrics import memorisation as copying
from training.metrics import opacity as silhouettes
from training.metrics.classifier import classify
from training.metrics.codes import CodeCounts
from training.metrics.distribution import frechet_distance, gaussian, inception_score, precision_recall
from training.metrics.evaluation import Evaluation, Part
from training.metrics.judge import Judge, with_noise
from training.metrics.pictures import Labelled, to_images
from training.metrics.report import Measured, Report, Section
from training.metrics.semantics import semantics_part

BATCH = 64  # pictures tokenized together


NEIGHBOURS = 3  # of precision and recall, as in OpenAI's evaluator


def tokenizer_part(work: Evaluation, report: Report) -> None:
    """PSNR, SSIM, LPIPS, rFID and code usage on the held-out pictures (paper, table 3)."""
    nvg, pixels = work.nvg, work.held_out.pixels
    codes = CodeCounts.empty(nvg.config.num_stages, nvg.config.autoencoder.codebook_size)
    outputs = []
    for part in pixels.split(BATCH):
        sequence = nvg.tokenize(to_images(part))
        codes.add(sequence)
        outputs.append(nvg.decode(sequence).cpu())
    output, target = torch.cat(outputs), to_images(pixels)
    section: Section = {
        "PSNR": Measured(float(psnr(output, target).mean()), "dB", f"mean of {len(pixels)} held-out pictures"),
        **_as_encoded(work.nvg, output, target),
        "SSIM": _ssim(output, target),
        "LPIPS": _lpips(output, target, work),
        "rFID": _reconstruction_distance(work, to_pixels(output)),
        "codes used": Measured(codes.used(), "%", f"of {codes.counts.shape[1]}, at any stage"),
        "code perplexity": Measured(codes.perplexity(), "", "so many codes, used alike, would be as diverse"),
    }
    for stage, (used, tokens) in enumerate(zip(codes.used_per_stage(), codes.tokens_per_stage(), strict=True)):
        section[f"codes used, stage {stage}"] = Measured(used, "%", f"{tokens} tokens")
    report.sections["tokenizer"] = section | _opacity(work)


def _opacity(work: Evaluation) -> Section:
    """Overlap of the pictures' opacity with true silhouettes and first splits, where the model has opacity."""
    nvg, settings = work.nvg, work.settings
    if nvg.config.autoencoder.output_channels == 3:
        return {}
    classes = nvg.classes if nvg.config.generator is not None else None
    pictures = open_dataset(settings.data, nvg.config.output_size, classes, "held-out", margin=settings.margin)
    true = silhouettes.reconstructed(nvg, pictures)
    section: Section = {
        "opacity, overlap": Measured(float(true.mean()), "%", f"mean IoU with {len(true)} true silhouettes")
    }
    if classes is not None:
        each = torch.arange(settings.maps) % len(classes)
        found = silhouettes.first_splits(nvg, each, settings.seed, settings.sampling)
        note = f"mean IoU with the first split, {len(found)} generated pictures"
        section["opacity, overlap with the split"] = Measured(float(found.mean()), "%", note)
    return section


def _as_encoded(nvg: NVG, output: Tensor, target: Tensor) -> Section:
    """PSNR at the size of the pictures that are encoded, where the decoder's are larger."""
    size = nvg.config.image_size
    if size == nvg.config.output_size:
        return {}
    small = (F.interpolate(one, size, mode="area") for one in (output, target))
    return {"PSNR, as encoded": Measured(float(psnr(*small).mean()), "dB", "both at {} x {} pixels".format(*size))}


def _ssim(output: Tensor, target: Tensor) -> Measured:
    try:
        return Measured(float(ssim(output, target).mean()))
    except ValueError as error:  # pictures smaller than its window
        return Measured(None, "", f"not available: {error}")


def _lpips(output: Tensor, target: Tensor, work: Evaluation) -> Measured:
    if not work.settings.lpips:
        return Measured(None, "", "not asked for: --lpips downloads 528 MB")
    try:
        from training.losses.lpips import load_lpips

        network = load_lpips().to(work.nvg.device)
        pairs = zip(output.split(BATCH), target.split(BATCH), strict=True)
        values = [network(a.to(work.nvg.device), b.to(work.nvg.device)).cpu() for a, b in pairs]
        return Measured(float(torch.cat(values).mean()), "", "VGG")
    except (TrainingError, ImportError, ValueError) as error:
        return Measured(None, "", f"not available: {error}")


def _reconstruction_distance(work: Evaluation, reconstructed: Tensor) -> Measured:
    if len(reconstructed) < 2:
        return Measured(None, "", "needs two held-out pictures or more")
    real, ours = work.extract(work.held_out.pixels)[0], work.extract(reconstructed)[0]
    distance = frechet_distance(gaussian(ours), gaussian(real))
    return Measured(distance, "", _space_note(work, len(real), real.shape[1]))


def distribution_part(work: Evaluation, report: Report) -> None:
    """Frechet distance, precision and recall of generated and real pictures, and of two halves of the real ones."""
    real, weights = work.train_features, work.train.weights
    ours, logits = work.generated_features
    first, second = halves(work.train, work.settings.seed)
    if min(len(ours), len(first), len(second)) <= NEIGHBOURS:
        raise TrainingError(
            f"{len(ours)} generated and {len(real)} real pictures are too few to compare; "
            f"use more than {NEIGHBOURS} and {2 * NEIGHBOURS}"
        )
    few = torch.randperm(len(ours), generator=stream(work.settings.seed, 11))[: len(second)]
    first_weights, second_weights = work.train.at(first).weights, work.train.at(second).weights
    half_a, half_b = gaussian(real[first], first_weights), gaussian(real[second], second_weights)
    score, deviation = inception_score(logits)
    precision, recall = precision_recall(ours, real, NEIGHBOURS, weights)
    best_precision, best_recall = precision_recall(real[first], real[second], NEIGHBOURS, second_weights)
    note = _space_note(work, len(ours), ours.shape[1])
    report.sections["distribution"] = {
        "Frechet distance": Measured(frechet_distance(gaussian(ours), gaussian(real, weights)), "", note),
        "Frechet distance, smaller": Measured(
            frechet_distance(gaussian(ours[few]), half_a), "", f"{len(few)} generated to {len(first)} real pictures"
        ),
        "Frechet distance, real": Measured(
            frechet_distance(half_a, half_b),
            "",
            f"two halves, {len(first)} and {len(second)}, of the training pictures",
        ),
        "Inception score": Measured(score, "", f"deviation {deviation:.3g}; ten parts of {len(ours) // 10} pictures"),
        "precision": Measured(precision, "%", f"{NEIGHBOURS} neighbours"),
        "recall": Measured(recall, "%", f"{NEIGHBOURS} neighbours, every class counted alike"),
        "precision, real": Measured(best_precision, "%", "the two halves"),
        "recall, real": Measured(best_recall, "%", "the two halves"),
    }


def halves(pictures: Labelled, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of two random halves, each with half of every class (the first with the odd one)."""
    shuffled = torch.randperm(len(pictures), generator=stream(seed, 10))
    by_class = [shuffled[pictures.labels[shuffled] == one] for one in range(len(pictures.classes))]
    return torch.cat([part[::2] for part in by_class]), torch.cat([part[1::2] for part in by_class])


def _space_note(work: Evaluation, pictures: int, features: int) -> str:
    note = f"{work.settings.features} features, {pictures} pictures"
    if pictures <= features:
        note += f" for {features} features: too few, far too large; compare with the same number only"
    return note


def judge_part(work: Evaluation, report: Report) -> None:
    """What a network that was not in the training says of generated, reconstructed and held-out pictures."""
    judge, train, held_out = Judge(work.train_features, work.train), work.train, work.held_out
    verdicts = [judge.verdict(work.generated_features[0], work.generated.labels)]
    for number in range(1, work.settings.seeds):
        again = work.generated_again(number)
        verdicts.append(judge.verdict(work.extract(again.pixels)[0], again.labels))
    first, second = halves(train, work.settings.seed)
    half = Judge(work.train_features[first], train.at(first))
    rebuilt = work.extract(copying.reconstructed(work.nvg, train.pixels))[0]
    sets = {
        "generated": (verdicts, len(work.generated)),
        "reconstructed": ([judge.verdict(rebuilt, train.labels)], len(train)),
        "held out": ([judge.verdict(work.extract(held_out.pixels)[0], held_out.labels)], len(held_out)),
        "half of the training pictures by the other": (
            [half.verdict(work.train_features[second], train.labels[second])],
            len(second),
        ),
    }
    for name, (found, count) in sets.items():
        report.sections[f"judge {work.settings.features}: {name}"] = with_noise(found, count)
    report.tables[f"What {work.settings.features} takes every class for"] = [
        {"class": name}
        | _class_row("held out", sets["held out"][0][0].taken_for, held_out, index)
        | _class_row("generated", verdicts[0].taken_for, work.generated, index)
        for index, name in enumerate(work.nvg.classes)
    ]


def classifier_part(work: Evaluation, report: Report) -> None:
    """Whether generated pictures are recognised as their class, beside held-out real ones."""
    real, ours = work.held_out, work.generated
    results = {}
    for name, pictures in (("held out", real), ("generated", ours)):
        _, logits = classify(work.network, pictures.pixels)
        results[name] = logits.argmax(1), accuracy(logits, pictures)
    note = f"trained on {len(work.train)} training pictures only"
    report.sections["classifier"] = {
        "accuracy, held out": Measured(results["held out"][1]["accuracy"], "%", f"{len(real)} pictures; {note}"),
        "accuracy, held out, mean over classes": Measured(results["held out"][1]["class_mean"], "%"),
        "accuracy, generated": Measured(results["generated"][1]["accuracy"], "%", f"{len(ours)} pictures"),
    }
    report.tables["Accuracy of every class"] = [
        {"class": name}
        | _class_row("held out", results["held out"][0], real, index)
        | _class_row("generated", results["generated"][0], ours, index)
        for index, name in enumerate(work.nvg.classes)
    ]


def accuracy(logits: Tensor, pictures: Labelled) -> dict[str, float]:
    """Share of the pictures that are right, and the mean of the classes' shares."""
    right = (logits.argmax(1) == pictures.labels).double()
    return {"accuracy": float(right.mean()), "class_mean": float(right @ pictures.weights)}


def _class_row(title: str, predicted: Tensor, pictures: Labelled, index: int) -> dict[str, str]:
    """How many of a class are right, and as what the others are taken most often."""
    answers = predicted[pictures.labels == index]
    counts = torch.bincount(answers, minlength=len(pictures.classes))
    right = int(counts[index])
    counts[index] = 0
    taken = pictures.classes[int(counts.argmax())] if int(counts.sum()) else ""
    return {title: f"{right} of {len(answers)}", f"{title}, taken for": taken}


def memorisation_part(work: Evaluation, report: Report) -> None:
    """Share of generated pictures that nearly repeat a training picture, and a sheet of the nearest ones."""
    found = copying.memorisation(work.nvg, work.generated.pixels, work.train, work.held_out, work.settings.seed)
    with replacing(work.settings.out / "nearest.png") as partial:
        copying.sheet(work.generated.pixels, work.train, found.nearest).save(partial, format="PNG")
    few = "" if len(work.held_out) >= 100 else f"; only {len(work.held_out)} of these, so it is rough"
    report.sections["memorisation"] = {
        "nearly identical, generated": Measured(
            found.share, "%", f"nearer than {found.threshold:.4f} to a training picture; the nearest are in nearest.png"
        ),
        "nearly identical, held out": Measured(
            found.held_out_share, "%", f"chance: the threshold is the {copying.QUANTILE:.0%} quantile of these{few}"
        ),
        "true copies found": Measured(
            found.copies_found, "%", "reconstructed views of training pictures that are nearer than the threshold"
        ),
        "median distance, generated": Measured(found.median, "", "to the nearest training picture"),
        "median distance, held out": Measured(found.held_out_median, "", "the same of reconstructed held-out pictures"),
    }


def adherence_part(work: Evaluation, report: Report) -> None:
    """Whether generated pictures have the structure that they were given (issue 5: 85% of the positions)."""
    nvg, settings = work.nvg, work.settings
    number = len(nvg.classes)
    classes = torch.linspace(0, number - 1, min(24, number)).round().long()
    section: Section = {}
    for name, one in following.shapes(nvg.config.grid).items():
        result = following.adherence(nvg, one.expand(len(classes), -1), classes, settings.seed, settings.sampling)
        section |= _adherence_rows(name, result, f"{len(classes)} classes")
    chosen = following.held_out_sample(work.held_out, settings.maps)
    pixels, labels = work.held_out.pixels[chosen], work.held_out.labels[chosen]
    maps = following.first_splits(nvg, pixels)
    result = following.adherence(nvg, maps, labels, settings.seed, settings.sampling)
    section |= _adherence_rows("held-out maps", result, f"{len(chosen)} maps, each with its own class")
    by_chance = "each map with what was found for the others"
    section["held-out maps, by chance"] = Measured(result.by_chance, "%", by_chance)
    best = following.reconstruction_adherence(nvg, pixels)
    section["held-out maps, reconstructed"] = Measured(best.mean, "%", "the pictures themselves, tokenized twice")
    report.sections["structure adherence"] = section


def _adherence_rows(name: str, result: following.Adherence, note: str) -> Section:
    return {
        f"{name}, agreement": Measured(result.mean, "%", f"mean share of positions; {note}"),
        f"{name}, followed": Measured(
            result.followed, "%", f"share with {following.ENOUGH:.0%} of the positions or more"
        ),
    }


def cost_part(work: Evaluation, report: Report) -> None:
    """Time and memory of an image, in a process of its own."""
    measured = cost.measure(work.settings.checkpoint, str(work.nvg.device), work.settings.dtype)
    threads = "" if work.nvg.device.type == "cuda" else f", {measured.threads} threads"
    report.sections["cost"] = {
        "time, one image": Measured(measured.seconds, "s", f"with decoding, loading apart{threads}"),
        "time, one of a batch": Measured(measured.seconds_in_batch, "s", f"batch of {measured.batch}"),
        "time to load": Measured(measured.loading_seconds, "s"),
        "peak memory": Measured(measured.peak_mib, "MiB", f"{measured.before_mib:.0f} MiB of it before loading"),
    }


PARTS: dict[Part, Callable[[Evaluation, Report], None]] = {
    "tokenizer": tokenizer_part,
    "distribution": distribution_part,
    "judge": judge_part,
    "classifier": classifier_part,
    "memorisation": memorisation_part,
    "adherence": adherence_part,
    "cost": cost_part,
    "semantics": semantics_part,
}
