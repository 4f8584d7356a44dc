"""Whether to extract features, fine-tune or train from scratch."""

from diagnosis.remedies import SMALL


def transfer(images: int, similar: bool) -> str:
    """How to use a pretrained network for a data set of some size, like or unlike what that network has seen.

    The four cases are those of Stanford's CS231n, after Yosinski et al. 2014 (arXiv 1411.1792): early layers are
    general, late ones special to their data. That training from scratch needs many pictures but then reaches as much
    is from He et al. 2019 (arXiv 1811.08883).
    """
    size = f"{images} pictures are {'few' if images < SMALL else 'many'} (the border, {SMALL}, is a rule of thumb)"
    kind = "like" if similar else "unlike"
    features = "tools/extract_features.py features.h5 --backbone resnet50 --weights DEFAULT --data DATASET"
    tuner = "main.py fit --config experiments/finetune_vgg16_flowers17.yaml --data DATASET --then test"
    if similar and images < SMALL:
        advice = (
            "Extract features and train a linear classifier on them (tools/train_linear.py features.h5): python "
            f"{features}. Late layers already tell such pictures apart, and so few would overfit millions of weights. "
            f"Then see whether fine-tuning the last block is better: python {tuner}."
        )
    elif similar:
        advice = (
            f"Fine-tune: python {tuner}. With so many pictures all layers can adapt without overfitting, and they "
            "begin close to what is wanted: first the head, then more and more of the body (callbacks.Unfreeze), at a "
            "smaller learning rate (--model.rate_factors)."
        )
    elif images < SMALL:
        advice = (
            "Extract features from an earlier layer and train a linear classifier on them (tools/train_linear.py "
            f"features.h5): python {features} --layer NAME. Late layers are special to other pictures, early ones "
            "(edges, textures) are general, and there are too few pictures to learn new ones. "
            "tools/inspect_model.py lists the layers; try several. Next best is fine-tuning with strong augmentation "
            "(datamodules.BatchAugment)."
        )
    else:
        advice = (
            "Train from scratch: python main.py fit --config experiments/resnet_tinyimagenet_modern.yaml --data "
            "DATASET --then test. There are enough pictures to learn layers of their own, and those of other pictures "
            f"promise little. Fine-tuning all layers may converge sooner, so compare it: python {tuner}."
        )
    return f"{size}, {kind} those that the network was trained on. {advice}"
