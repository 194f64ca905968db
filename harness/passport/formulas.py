"""The published losses, written from their papers and from nothing else: what a loss under test is compared with.

Each is a plain function ``f(call, parameters) -> scalar`` of a whole update (``harness.passport.update.Call``); it
divides by ``call.responses`` or ``call.tokens``, so it does not depend on micro-batches, and multiplies by
``call.ranks``, because trainers average over ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from harness.passport.update import Call
from harness.passport.worker import differentiate


@dataclass(frozen=True)
class Parameters:
    """lower, upper: ends of the range of the ratio. tau_positive, tau_negative: SAPO's temperatures. c_lower, c_upper:
    FSPO's half-widths of the band of the summed log-ratio, for a response of one token (nats)."""

    lower: float = 0.8
    upper: float = 1.28
    tau_positive: float = 1.0
    tau_negative: float = 1.05
    c_lower: float = 0.2
    c_upper: float = 0.25


Function = Callable[[Call, Parameters], Tensor]


def surrogate(ratio: Tensor, advantages: Tensor, p: Parameters) -> Tensor:
    """PPO's pessimistic minimum, arXiv 1707.06347 equation 7."""
    return torch.minimum(ratio * advantages, ratio.clamp(p.lower, p.upper) * advantages)


def log_ratio(call: Call) -> Tensor:
    return (call.log_prob - call.old_log_prob) * call.response_mask


def lengths(call: Call) -> Tensor:
    """|y|, (responses, 1); 1 for a response without tokens, whose terms are all 0."""
    return call.response_mask.sum(-1, keepdim=True).clamp(min=1)


def token_terms(call: Call, p: Parameters) -> Tensor:
    return surrogate(log_ratio(call).exp(), call.advantages, p) * call.response_mask


def sequence_terms(call: Call, p: Parameters) -> Tensor:
    """min(s A, clip(s) A), (responses,), with s the geometric mean of a response's ratios."""
    s = (log_ratio(call).sum(-1) / lengths(call)[:, 0]).exp()
    return surrogate(s, call.advantages[:, 0], p) * (call.response_mask.sum(-1) > 0)


def grpo(call: Call, p: Parameters) -> Tensor:
    return -call.ranks / call.responses * (token_terms(call, p) / lengths(call)).sum()


def dapo(call: Call, p: Parameters) -> Tensor:
    return -call.ranks / call.tokens * token_terms(call, p).sum()


def dr_grpo(call: Call, p: Parameters) -> Tensor:
    return -call.ranks / call.responses * token_terms(call, p).sum()


def gspo(call: Call, p: Parameters) -> Tensor:
    return -call.ranks / call.responses * sequence_terms(call, p).sum()


def luspo(call: Call, p: Parameters) -> Tensor:
    return -call.ranks / call.responses * (lengths(call)[:, 0] * sequence_terms(call, p)).sum()


def gmpo(call: Call, p: Parameters) -> Tensor:
    """arXiv 2507.20673: (prod over t of |min(r A, clip(r) A)|)^(1/|y|) sgn A; the product in logarithms."""
    r, sign = log_ratio(call), call.advantages.sign()
    kept = sign * torch.minimum(sign * r, sign * r.clamp(torch.tensor(p.lower).log(), torch.tensor(p.upper).log()))
    mean = (kept * call.response_mask).sum(-1) / lengths(call)[:, 0]
    terms = mean.exp() * call.advantages[:, 0] * (call.response_mask.sum(-1) > 0)
    return -call.ranks / call.responses * terms.sum()


def sapo(call: Call, p: Parameters) -> Tensor:
    tau = torch.where(call.advantages > 0, p.tau_positive, p.tau_negative)
    gate = torch.sigmoid(tau * (log_ratio(call).exp() - 1)) * 4 / tau
    return -call.ranks / call.responses * (gate * call.advantages * call.response_mask / lengths(call)).sum()


def cispo(call: Call, p: Parameters) -> Tensor:
    weight = log_ratio(call).exp().clamp(max=p.upper).detach()
    return -call.ranks / call.tokens * (weight * call.advantages * call.log_prob * call.response_mask).sum()


def fspo(call: Call, p: Parameters) -> Tensor:
    total, root = log_ratio(call).sum(-1), lengths(call)[:, 0].sqrt()
    bounded = torch.maximum(torch.minimum(total, p.c_upper * root), -p.c_lower * root)
    a = call.advantages[:, 0]
    return -call.ranks / call.responses * torch.minimum(total.exp() * a, bounded.exp() * a).sum()


def reinforce(call: Call, p: Parameters) -> Tensor:
    return -call.ranks / call.tokens * (call.advantages * call.log_prob * call.response_mask).sum()


@dataclass(frozen=True)
class Formula:
    """A published loss. It is a ``Loss`` (``harness.passport.update``), so the same probes measure it.

    Args:
        key: its name on the command line.
        title: its name in tables.
        version: where it is published.
        free_constant: the paper divides by a constant that the user chooses.
        kl: the estimator of the paper's KL term, which a loss may have, with any coefficient, or leave out.
    """

    key: str
    title: str
    version: str
    function: Function
    free_constant: bool = False
    kl: str = ""
    parameters: Parameters = Parameters()
    takes_weights: bool = False
    equal_rows: bool = False
    note: str = ""

    def gradient(self, call: Call) -> Tensor:
        return differentiate(lambda inputs: self.function(inputs, self.parameters), SimpleNamespace(**vars(call)))

    def at(self, parameters: Parameters) -> "Formula":
        return replace(self, parameters=parameters)


FORMULAS = {
    formula.key: formula
    for formula in (
        Formula("grpo", "GRPO", "arXiv 2402.03300, equation 3", grpo, kl="k3"),
        Formula("dapo", "DAPO", "arXiv 2503.14476, equation 8", dapo),
        Formula("dr_grpo", "Dr. GRPO", "arXiv 2503.20783", dr_grpo, free_constant=True),
        Formula("gspo", "GSPO", "arXiv 2507.18071, equation 5", gspo),
        Formula("luspo", "LUSPO", "arXiv 2602.05261, equation 8", luspo),
        Formula("gmpo", "GMPO", "arXiv 2507.20673", gmpo),
        Formula("sapo", "SAPO", "arXiv 2511.20347", sapo),
        Formula("cispo", "CISPO", "arXiv 2506.13585", cispo),
        Formula("fspo", "FSPO", "arXiv 2509.09177", fspo),
        Formula("reinforce", "REINFORCE", "a token's log-probability times its advantage, mean over tokens", reinforce),
    )
}
