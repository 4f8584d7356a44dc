"""What every network owes that goes on from a checkpoint: an optimizer, and the refusal of another one's state."""

from functools import partial

import pytest
import torch

from lightning_modules import DCGAN, SRCNN, MiniVGGNet

ADAMS = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax"]
OTHERS = ["SGD", "Adadelta", "Adagrad", "RMSprop", "Rprop", "ASGD", "Adafactor"]
small = partial(MiniVGGNet, 4, 8)


@pytest.mark.parametrize("network", [small, partial(DCGAN, 4, 8), partial(SRCNN, 3)])
def test_no_optimizer_is_refused(network) -> None:
    with pytest.raises(ValueError, match="optimizer is None; name one, like torch.optim.SGD"):
        network(optimizer=None)


def test_weights_without_a_shape_are_refused() -> None:
    model = small()
    model.net[-1] = torch.nn.LazyLinear(4)
    with pytest.raises(ValueError, match=r"net.\d+.weight of MiniVGGNet has no shape yet"):
        model.setup("fit")
    model(torch.zeros(2, 3, 8, 8))
    model.setup("fit")


def test_weights_for_pictures_of_another_size_say_so() -> None:
    saved = {"state_dict": MiniVGGNet(4, 16).state_dict(), "preprocessing": {"input_size": 16}}
    with pytest.raises(ValueError, match="than this MiniVGGNet, one for pictures of 16 pixels, not 8: 1 tensors"):
        small().on_load_checkpoint(saved)
    saved["preprocessing"]["input_size"] = 8
    with pytest.raises(ValueError, match="another network than this MiniVGGNet: 1 tensors differ"):
        small().on_load_checkpoint(saved)


def state_after_a_step(optimizer: torch.optim.Optimizer) -> dict:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("name", ADAMS + OTHERS)
def test_an_optimizer_goes_on_from_its_own_state(name: str) -> None:
    model = small(optimizer=getattr(torch.optim, name))
    state = state_after_a_step(model.configure_optimizers())
    weights = [parameter.clone() for parameter in model.parameters()]
    model.refuse_other_optimizers([state])
    assert all(map(torch.equal, weights, model.parameters()))


@pytest.mark.parametrize(
    ("then", "now", "lacking"),
    [
        (torch.optim.Adam, torch.optim.Adamax, "exp_inf"),
        (torch.optim.RAdam, torch.optim.NAdam, "mu_product"),
        (torch.optim.Adam, partial(torch.optim.Adam, amsgrad=True), "max_exp_avg_sq"),
        (torch.optim.RMSprop, partial(torch.optim.RMSprop, momentum=0.9), "momentum_buffer"),
        (torch.optim.RMSprop, partial(torch.optim.RMSprop, centered=True), "grad_avg"),
    ],
)
def test_a_state_that_lacks_something_is_refused(then, now, lacking: str) -> None:
    state = state_after_a_step(small(optimizer=then).configure_optimizers())
    with pytest.raises(ValueError, match=f"goes on from {lacking} too; go on with the same optimizer"):
        small(optimizer=now).refuse_other_optimizers([state])


@pytest.mark.parametrize(
    ("then", "now", "lost"),
    [
        (torch.optim.Adam, torch.optim.SGD, "amsgrad, betas"),
        (torch.optim.SGD, torch.optim.Adagrad, "dampening, momentum"),
        (torch.optim.Adadelta, torch.optim.RMSprop, "rho"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(then, now, lost: str) -> None:
    state = state_after_a_step(small(optimizer=then).configure_optimizers())
    with pytest.raises(ValueError, match=f"another optimizer than {now.__name__}, with {lost}"):
        small(optimizer=now).refuse_other_optimizers([state])


def test_a_state_of_an_older_torch_with_a_scheduler_goes_on() -> None:
    """The scheduler left its own entry in the groups, and a setting of today was not there yet."""
    model = small(optimizer=torch.optim.Adam)
    state = state_after_a_step(model.configure_optimizers())
    for group in state["param_groups"]:
        group["initial_lr"] = group["lr"]
        del group["fused"]
    model.refuse_other_optimizers([state])


def test_an_optimizer_that_cannot_step_here_goes_on() -> None:
    model = small(optimizer=torch.optim.Adam)
    state = state_after_a_step(model.configure_optimizers())
    small(optimizer=partial(torch.optim.Adam, capturable=True)).refuse_other_optimizers([state])  # which needs a GPU
    model.refuse_other_optimizers([{**state, "state": {10**6: state["state"][0]}}])  # torch refuses it later


def test_momentum_may_begin_within_a_run() -> None:
    state = state_after_a_step(small(optimizer=torch.optim.SGD).configure_optimizers())
    model = small(optimizer=partial(torch.optim.SGD, momentum=0.9))
    model.refuse_other_optimizers([state])
    optimizer = model.configure_optimizers()
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["momentum"] = 0.9  # as on_train_start does
    assert state_after_a_step(optimizer)["state"][0].keys() == {"momentum_buffer"}
