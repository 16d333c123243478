"""The wrapped optimizer: removed weights are 0, and the kept ones train as if those did not exist."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_networks
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax import clip_by_block_rms as clip
from optax import contrib
from small_networks import kept, loss, plain

from wsn import sparsity
from wsn.errors import UserError
from wsn.sparsity import optimizer as rules

KEY = jax.random.key(0)
MASK = sparsity.random_mask(plain(), total=40, key=KEY)
START = sparsity.mask_and_rescale(plain(), MASK)


def trained(optimizer, params, loss, steps=3, compiled=True, **extra):
    """Parameters after some steps; `extra`: (value, gradient) → extra arguments."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        more = {name: of(value, gradient) for name, of in extra.items()}
        updates, state = optimizer.update(gradient, state, params, **more)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = (jax.jit(step) if compiled else step)(params, state)
    return params


# All of optax, by what was tried. Aliases of the first kind are tried with -m slow.


def words(text):
    return text.split()


PRIMITIVES = {
    **dict.fromkeys(words("ema trace scale"), (0.5,)),
    **dict.fromkeys(words("clip clip_by_global_norm clip_by_block_rms add_decayed_weights"), (0.1,)),
    **dict.fromkeys(words("scale_by_learning_rate scale_by_rprop scale_by_madgrad"), (0.1,)),
    **dict.fromkeys(words("scale_by_backtracking_linesearch scale_by_zoom_linesearch"), (5,)),
    "apply_every": (2,),
    "scale_by_schedule": (lambda step: 0.1,),
    **dict.fromkeys(
        words("""identity keep_params_nonnegative normalize normalize_by_update_norm reduce_on_plateau set_to_zero
        zero_nans scale_by_acprop scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan scale_by_ademamix
        scale_by_adopt scale_by_amsgrad scale_by_belief scale_by_cocob scale_by_distance_over_gradients scale_by_lion
        scale_by_novograd scale_by_optimistic_gradient scale_by_param_block_norm scale_by_param_block_rms
        scale_by_polyak scale_by_radam scale_by_rms scale_by_rss scale_by_sign scale_by_simplified_ademamix
        scale_by_stddev scale_by_trust_ratio scale_by_yogi"""),
        (),
    ),
}
ALIASES = words("""acprop adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan ademamix adopt amsgrad
    cocob dadapt_adamw fromage lamb lars lbfgs lion madgrad momo momo_adam nadam nadamw novograd
    optimistic_adam_v2 optimistic_gradient_descent polyak_sgd prodigy radam rmsprop rprop schedule_free_adamw
    schedule_free_sgd sgd sign_sgd signum simplified_ademamix yogi""")
BY_UNIT = {"sm3": (0.1,), "scale_by_sm3": (), "adaptive_grad_clip": (0.1,)}  # of a matrix of kept weights
INEXACT = set(words("muon scale_by_muon galore scale_by_galore"))  # functions of the whole matrix
REFUSED = {"centralize"}
RANDOM = set(
    words("add_noise noisy_sgd dpsgd differentially_private_aggregate sophia")
)  # draws depend on the shape
OTHERS = set(
    words("""apply_if_finite chain conditionally_mask conditionally_transform flatten freeze inject_hyperparams
    inject_stateful_hyperparams lookahead masked measure_with_ema mechanize multi_transform named_chain optimistic_adam
    partition sam scale_by_lbfgs schedule_free selective_transform snapshot split_real_and_imaginary stateless
    stateless_with_tree_map with_extra_args_support""")
)  # made of others, or of the user's functions


def make(name):
    factory = getattr(optax, name, None) or getattr(contrib, name)
    arguments = {**PRIMITIVES, **BY_UNIT}.get(name)
    if arguments is None:
        return factory(
            **({"learning_rate": 0.1} if "learning_rate" in inspect.signature(factory).parameters else {})
        )
    return factory(*arguments)


def smooth(params):
    """A function of the kept weights alone, of any shape."""
    return sum(jnp.sum(jnp.sin(leaf + 0.3) - jnp.sin(0.3)) for leaf in jax.tree.leaves(params))


EXTRA = {
    "value": lambda value, gradient: value,
    "grad": lambda value, gradient: gradient,
    "value_fn": lambda value, gradient: smooth,
}
NEEDS = {
    **dict.fromkeys(["scale_by_polyak", "polyak_sgd", "momo", "momo_adam", "reduce_on_plateau"], ["value"]),
    **dict.fromkeys(["lbfgs", "scale_by_backtracking_linesearch", "scale_by_zoom_linesearch"], list(EXTRA)),
}


def alone(mask, params, rectangle=False):
    """The kept weights without the removed ones: as vectors, or as a matrix of the rows and columns that are kept."""

    def of(mask, leaf):
        if not mask.ndim:
            return leaf
        values = jnp.asarray(np.asarray(leaf)[mask])
        return values.reshape(mask.any(1).sum(), -1) if rectangle else values

    return jax.tree.map(of, mask, params)


def rectangles():
    """A mask that keeps whole rows and columns."""
    return jax.tree.map(
        lambda leaf: (
            np.outer(np.arange(len(leaf)) % 2 == 0, np.arange(leaf.shape[1]) % 3 < 2) if leaf.ndim else leaf
        ),
        MASK,
    )


@pytest.mark.parametrize(
    "name",
    [
        *PRIMITIVES,
        *BY_UNIT,
        "adafactor",
        *(pytest.param(a, marks=pytest.mark.slow) for a in ALIASES),
    ],
)
def test_kept_weights_train_as_if_they_were_alone(name):
    mask = rectangles() if name in BY_UNIT else MASK
    params = sparsity.mask_and_rescale(plain(), mask)
    extra = {argument: EXTRA[argument] for argument in NEEDS.get(name, ())}
    ours = trained(sparsity.with_static_mask(make(name), mask), params, smooth, 2, False, **extra)
    theirs = trained(make(name), alone(mask, params, name in BY_UNIT), smooth, 2, False, **extra)
    assert small_networks.close(alone(mask, ours, name in BY_UNIT), theirs)
    assert kept(mask, ours) <= sum(sparsity.num_kept(mask).values())


def test_all_of_optax_is_known():
    """An entry that is new in optax must be tried: is it exact, and if not, can it be recognized?"""

    def factories(module):
        for name, factory in inspect.getmembers(module, inspect.isfunction):
            result = str(inspect.signature(factory).return_annotation)
            if not name.startswith("_") and "GradientTransformation" in result:
                yield name

    known = {*PRIMITIVES, *ALIASES, *BY_UNIT, *INEXACT, *REFUSED, *RANDOM, *OTHERS}
    assert {*factories(optax), *factories(contrib)} <= known


def test_averages_over_a_leaf_are_recognized_or_refused():
    """In chains, wrappers and factories; a matrix transformation beside them is not given vectors."""
    block = optax.clip_by_block_rms(1.0)
    for hidden in (
        optax.chain(optax.sgd(0.1), block),
        optax.MultiSteps(optax.adafactor(), 2).gradient_transformation(),
        optax.inject_hyperparams(optax.adafactor)(learning_rate=0.1),
        optax.partition({"a": optax.sgd(0.1), "b": block}, {"hidden": "a", "output": "b"}),
        contrib.schedule_free(optax.chain(block, optax.sgd(0.1)), 0.1),
    ):
        state = sparsity.with_static_mask(hidden, MASK).init(START)
        assert state.positions["hidden"]["kernel"].shape == (MASK["hidden"]["kernel"].sum(),)
    for name in set(ALIASES) - {"adafactor"}:
        assert sparsity.with_static_mask(make(name), MASK).init(START).positions == ()
    with pytest.raises(UserError, match="centralize"):
        sparsity.with_static_mask(optax.chain(optax.centralize(), optax.sgd(0.1)), MASK)
    with pytest.raises(UserError, match="clip_by_block_rms, muon, scale_by_muon"):
        sparsity.with_static_mask(optax.chain(contrib.muon(0.1), block), MASK)
    with pytest.raises(UserError, match="`mask` is traced"):
        jax.jit(lambda mask: sparsity.with_static_mask(block, mask).init(START))(MASK)
    with pytest.raises(UserError, match="adaptive_grad_clip, clip_by_block_rms"):
        sparsity.with_static_mask(optax.chain(optax.adaptive_grad_clip(0.1), block), MASK)
    assert set(rules.MATRIX) == INEXACT and set(rules.BY_UNIT) == set(BY_UNIT)


def _of_this_file(learning_rate):
    return optax.chain(clip(1.0), optax.sgd(learning_rate))


def test_a_factory_of_ones_own_is_searched_too():
    def make(learning_rate):
        return optax.chain(optax.sgd(learning_rate), optax.clip_by_block_rms(1.0))

    def centered(learning_rate):
        return optax.chain(optax.centralize(), optax.sgd(learning_rate))

    def behind_another(learning_rate):
        return _of_this_file(learning_rate)

    compiled = optax.GradientTransformation(*map(jax.jit, make(0.1)))
    for inner in (
        *(optax.inject_hyperparams(f)(learning_rate=0.1) for f in (make, behind_another)),
        compiled,
    ):
        assert sparsity.with_static_mask(inner, MASK).init(START).positions != ()
    with pytest.raises(UserError, match="centralize"):
        sparsity.with_static_mask(optax.inject_hyperparams(centered)(learning_rate=0.1), MASK)


def test_parameters_may_be_a_single_array():
    mask = np.arange(36).reshape(6, 6) % 5 == 0
    state = sparsity.with_static_mask(optax.adafactor(0.1), mask).init(jnp.ones((6, 6)))
    assert state.positions.shape == (mask.sum(),)


def test_masks_by_rank_hold_beside_averages_over_a_leaf():
    """Decay of matrices alone, as people write it: by `ndim`."""
    matrices = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    chain = optax.add_decayed_weights(0.1, mask=matrices), optax.sgd(1.0)
    plainly, beside = (
        trained(sparsity.with_static_mask(optax.chain(*parts), MASK), plain(), loss)
        for parts in (chain, (optax.clip_by_block_rms(1e9), *chain))
    )
    assert small_networks.close(plainly, beside)


WRAPPED = {
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "noisy": optax.chain(optax.add_noise(1.0, 0.5, KEY), optax.sgd(0.1)),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=4),
    "accumulated": optax.MultiSteps(optax.adamw(1e-2), 2).gradient_transformation(),
    "muon": contrib.muon(1e-2),
    "sam": contrib.sam(optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=3),
    "averaged": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2), optax.ema(0.5)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_removed_weights_are_zero_from_any_initial_parameters(name):
    """Also from those that were not masked."""
    assert kept(MASK, trained(sparsity.with_static_mask(WRAPPED[name], MASK), plain(), loss)) == 40


@pytest.mark.parametrize("name", WRAPPED)
def test_keeping_everything_is_the_transformation_itself(name):
    """Bit for bit, update by update (in one compiled program roundings may fuse differently)."""
    params, everything = plain(), sparsity.random_mask(plain(), connectivity=1.0, key=KEY)
    wrapped, bare = sparsity.with_static_mask(WRAPPED[name], everything), WRAPPED[name]
    state, wrapped_state = bare.init(params), wrapped.init(params)
    for scale in (1.0, -0.3):
        gradient = jax.tree.map(lambda leaf, scale=scale: scale * jnp.cos(leaf), params)
        updates, state = bare.update(gradient, state, params)
        wrapped_updates, wrapped_state = wrapped.update(gradient, wrapped_state, params)
        assert small_networks.equal(wrapped_updates, updates) and small_networks.equal(
            wrapped_state.inner, state
        )
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    "outer",
    [
        lambda masked: optax.MultiSteps(masked, 2),
        lambda masked: optax.apply_if_finite(masked, 3),
        lambda masked: optax.partition({"a": masked, "b": masked}, {"hidden": "a", "output": "b"}),
        lambda masked: contrib.schedule_free(masked, 1e-2),
        lambda masked: optax.inject_hyperparams(lambda rate: optax.chain(masked, optax.scale(rate)))(1.0),
    ],
    ids=["steps", "finite", "partition", "schedule_free", "inject"],
)
def test_other_wrappers_may_stand_outside(outer):
    masked = sparsity.with_static_mask(optax.adamw(1e-2), MASK)
    assert kept(MASK, trained(outer(masked), START, loss, 4)) == 40


def test_lookahead_may_stand_outside():
    fast = sparsity.with_static_mask(optax.adamw(1e-2), MASK)
    optimizer, params = optax.lookahead(fast, 2, 0.5), optax.LookaheadParams.init_synced(START)
    state = optimizer.init(params)
    for _ in range(4):
        updates, state = optimizer.update(jax.grad(loss)(params.fast), state, params)
        params = optax.apply_updates(params, updates)
    assert kept(MASK, params.fast) == kept(MASK, params.slow) == 40


def test_infinite_gradients_of_removed_weights_do_not_matter():
    optimizer = sparsity.with_static_mask(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), MASK)
    gradient = jax.tree.map(lambda mask, leaf: np.where(mask, leaf, np.nan), MASK, START)
    updates, _ = optimizer.update(gradient, optimizer.init(START), START)
    stepped = optax.apply_updates(START, updates)
    assert kept(MASK, stepped) == 40 and np.isfinite(loss(stepped))


def masked_loss(params):
    return loss(sparsity.apply_mask(params, MASK))


def test_a_line_search_gets_masked_gradients_and_functions():
    def searched(optimizer, loss):
        return trained(optimizer, START, loss, **EXTRA | {"value_fn": lambda *_: loss})

    ours = searched(sparsity.with_static_mask(optax.lbfgs(), MASK), loss)
    assert small_networks.close(ours, searched(optax.lbfgs(), masked_loss), 1e-4, 1e-5)
    assert kept(MASK, ours) == 40 and loss(ours) < loss(START)


@pytest.mark.parametrize("sync_period", [1, 2, 3])
def test_sam_gets_gradients_of_masked_parameters(sync_period):
    """In opaque mode; also where its adversary moves removed weights."""

    def with_sam(adversary, loss, wrap):
        def grad_fn(params, step):
            evaluated_at.append(params)
            return jax.grad(loss)(params)

        sam = contrib.sam(optax.adamw(1e-2), adversary, sync_period=sync_period, opaque_mode=True)
        return trained(wrap(sam), START, loss, 2, False, grad_fn=lambda *_: grad_fn)

    evaluated_at = []
    adversary = optax.chain(contrib.normalize(), optax.sgd(0.05))
    ours = with_sam(adversary, loss, lambda sam: sparsity.with_static_mask(sam, MASK))
    with_sam(optax.add_noise(0.1, 0.5, KEY), loss, lambda sam: sparsity.with_static_mask(sam, MASK))
    assert len(evaluated_at) == 4 * (sync_period - 1) and all(
        kept(MASK, params) == 40 for params in evaluated_at
    )
    assert (
        small_networks.close(ours, with_sam(adversary, masked_loss, lambda sam: sam))
        and kept(MASK, ours) == 40
    )


def vector(kept, leaf):
    """Kept weights as they are seen: of the rank of their leaf."""
    return kept.reshape(-1, *[1] * (leaf.ndim - 1))


def test_functions_among_the_extra_arguments_are_masked_whatever_they_return():
    """Gradients, pairs with values, parameters by name; vectors where the transformation gets vectors."""
    returned = []

    def update(updates, state, params, *, functions):
        returned.extend(function(params=params) for function in functions)
        return updates, state

    probe = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    functions = (
        lambda params: jax.value_and_grad(loss)(params),
        lambda params: {"gradient": jax.grad(loss)(params), "step": 1},
    )
    value, gradient = jax.value_and_grad(masked_loss)(plain())
    for inner in (probe, optax.chain(probe, optax.clip_by_block_rms(1.0))):
        returned.clear()
        optimizer = sparsity.with_static_mask(inner, MASK)
        optimizer.update(gradient, optimizer.init(plain()), plain(), functions=functions)
        seen = gradient if inner is probe else jax.tree.map(vector, alone(MASK, gradient), gradient)
        assert small_networks.close(returned, [(value, seen), {"gradient": seen, "step": 1}])


def test_seeds_may_be_mapped_each_with_its_mask():
    """A mask is an argument of the mapped function and travels in the state."""
    masks = [sparsity.random_mask(plain(), total=40, key=jax.random.key(seed)) for seed in range(2)]

    def stepped(mask):
        params = sparsity.mask_and_rescale(plain(), mask)
        return trained(sparsity.with_static_mask(optax.adam(1e-2), mask), params, loss, 1)

    together = jax.jit(jax.vmap(stepped))(jax.tree.map(lambda *leaves: np.stack(leaves), *masks))
    for seed, mask in enumerate(masks):
        assert kept(mask, jax.tree.map(lambda leaf, seed=seed: leaf[seed], together)) == 40


@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("inner", [optax.adamw(1e-2), optax.adafactor(1e-2)], ids=["adamw", "adafactor"])
def test_a_mask_takes_the_sharding_of_its_parameter(axis_type, inner):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(axis_type,), devices=jax.devices()[:1])
    sharding = NamedSharding(mesh, PartitionSpec("x", None))
    params = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding) if leaf.ndim == 2 else leaf, plain())
    optimizer = sparsity.with_static_mask(inner, MASK)

    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        for compiled in (lambda function: function, jax.jit):
            initial = compiled(lambda params: sparsity.mask_and_rescale(params, MASK))(params)
            masked = compiled(sparsity.apply_mask)(initial, MASK)
            state = compiled(optimizer.init)(masked)
            if axis_type is AxisType.Explicit:
                assert jax.typeof(state.mask["hidden"]["kernel"]).sharding.spec == sharding.spec
            params, state = jax.jit(step)(masked, state)
            assert kept(MASK, params) == 40 and params["hidden"]["kernel"].sharding.is_equivalent_to(
                sharding, 2
            )


def test_shards_are_masked_inside_shard_map():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])

    def step(params, mask):
        optimizer = sparsity.with_static_mask(optax.adam(0.1), mask)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    params, mask = plain()["hidden"]["kernel"], MASK["hidden"]["kernel"]
    spec = PartitionSpec("x")
    stepped = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(params, mask)
    assert kept(mask, stepped) == mask.sum()


def test_an_nnx_optimizer_trains_kept_weights_only():
    model, narrow = small_networks.Nnx(8), small_networks.Nnx(4)
    params = nnx.state(model, nnx.Param)
    mask = sparsity.random_mask(params, like=nnx.state(narrow, nnx.Param), key=KEY)
    assert jax.tree.structure(mask) == jax.tree.structure(nnx.split(model, nnx.Param, ...)[1])
    assert sparsity.num_kept(mask) == {"hidden_0/kernel": 18, "output/kernel": 18}
    nnx.update(model, sparsity.mask_and_rescale(params, mask))
    optimizer = nnx.Optimizer(model, sparsity.with_static_mask(optax.adamw(0.1), mask), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(small_networks.X) - 1) ** 2))(model))

    before = model.hidden_0.kernel[...]
    for _ in range(2):
        step(model, optimizer)
    assert kept(mask, nnx.state(model, nnx.Param)) == 36
    assert not np.array_equal(model.hidden_0.kernel[...], before)


def test_bad_input_is_refused_in_one_line():
    optimizer = sparsity.with_static_mask(optax.sgd(0.1), MASK)
    with pytest.raises(UserError, match="`params`: a static mask needs them"):
        optimizer.update(plain(), optimizer.init(plain()))
    with pytest.raises(UserError, match=r"output/kernel has shape \(12, 3\)"):
        optimizer.init(plain() | {"output": {"kernel": np.zeros((12, 4))}})
    with pytest.raises(UserError, match="`mask` has no params/hidden/bias"):
        optimizer.init({"params": plain()})
