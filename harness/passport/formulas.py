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

from harness.passport.update import DTYPE, Call
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


def vl_norm(call: Call, p: Parameters) -> Tensor:
    """|y|^-0.75 over its mean in the update, times the sum over tokens; M is left to the free constant."""
    powers = torch.tensor(call.lengths, dtype=DTYPE) ** -0.75
    weights = (powers / powers.mean())[call.first :][: len(call.advantages)]
    return -call.ranks / call.responses * (weights[:, None] * token_terms(call, p)).sum()


def balanced(call: Call, p: Parameters) -> Tensor:
    """k/G times the mean over the tokens of the k responses with this sign; the update is one group of G."""
    signs, lengths = torch.tensor(call.signed, dtype=DTYPE).sign(), torch.tensor(call.lengths, dtype=DTYPE)
    terms, loss = token_terms(call, p).sum(-1), call.log_prob.sum() * 0
    for sign in (1, -1):
        side = signs == sign
        if side.any():
            mine = call.advantages[:, 0].sign() == sign
            loss = loss - side.sum() / len(signs) / lengths[side].sum() * terms[mine].sum()
    return call.ranks * loss


def vespo(call: Call, p: Parameters) -> Tensor:
    """W^k exp(lambda (1 - W)) with W of the whole sequence; (k, lambda) = (2, 3) for A >= 0, (3, 2) below."""
    w = log_ratio(call).sum(-1, keepdim=True).clamp(-20, 20).exp().detach()
    kernel = torch.where(call.advantages >= 0, w**2 * (3 - 3 * w).exp(), w**3 * (2 - 2 * w).exp())
    return -call.ranks / call.tokens * (kernel * call.advantages * call.log_prob * call.response_mask).sum()


def _dppo(call: Call, far: Tensor) -> Tensor:
    away = (call.log_prob > call.old_log_prob) == (call.advantages > 0)
    weight = (log_ratio(call).exp() * ~(far & away)).detach()
    terms = weight * call.advantages * call.log_prob * call.response_mask
    return -call.ranks / call.responses * terms.sum()


def dppo_tv(call: Call, p: Parameters) -> Tensor:
    """r A, and nothing once a token's probability has moved by more than 0.15 to where the advantage pushes it."""
    return _dppo(call, (call.log_prob.exp() - call.old_log_prob.exp()).abs() > 0.15)


def dppo_kl(call: Call, p: Parameters) -> Tensor:
    """As ``dppo_tv``, with the KL of "this token or another one" above 0.05 nats."""
    old, new = call.old_log_prob.exp(), call.log_prob.exp().clamp(max=1 - 1e-12)
    far = old * (call.old_log_prob - call.log_prob) + (1 - old) * ((1 - old) / (1 - new)).log() > 0.05
    return _dppo(call, far)


def dro(call: Call, p: Parameters) -> Tensor:
    terms = call.advantages * call.log_prob * call.response_mask - 0.05 / 2 * log_ratio(call) ** 2
    return -call.ranks / call.tokens * terms.sum()


def kl_cov(call: Call, p: Parameters) -> Tensor:
    """r A, and |log r| off for the 0.2 % of the micro-batch's tokens whose (A - mean)(log p - mean) is largest."""
    where = call.response_mask.bool()
    a, new, ratio = call.advantages[where], call.log_prob[where], log_ratio(call)[where]
    together = (a - a.mean()) * (new - new.mean()).detach()
    paying = torch.zeros_like(a)
    paying[together.topk(max(1, int(0.002 * len(a)))).indices] = 1.0
    return -call.ranks / call.tokens * (ratio.exp() * a - paying * ratio.abs()).sum()


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
        Formula("vl_norm", "VL Norm", "arXiv 2509.07558, alpha 0.75", vl_norm, free_constant=True),
        Formula("balanced", "Balanced Aggregation", "arXiv 2605.04077, one group", balanced),
        Formula("vespo", "VESPO", "arXiv 2602.10693", vespo),
        Formula("dppo_tv", "DPPO-TV", "arXiv 2602.04879, limit 0.15", dppo_tv, free_constant=True),
        Formula("dppo_kl", "DPPO-KL", "arXiv 2602.04879, limit 0.05", dppo_kl, free_constant=True),
        Formula("dro", "DRO", "arXiv 2405.19107 by token, beta 0.05", dro),
        Formula("kl_cov", "KL-Cov", "arXiv 2505.22617, 0.2 % and 1", kl_cov),
        Formula("reinforce", "REINFORCE", "a token's log-probability times its advantage, mean over tokens", reinforce),
    )
}
