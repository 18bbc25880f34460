"""The names of a model's modules and weights, and what is derived from the weights once for all batches."""


class WeightCache:
    """Names and derived values of the weights that a model owns, which must not change."""

    def __init__(self, model):
        self.module_names = {
            id(module): name or type(module).__name__ for name, module in model.named_modules()
        }
        self._names = {
            id(values): module_name
            for module_name, module in model.named_modules()
            for values in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self._variants = {}

    def name_of(self, *weights):
        """Return the name of the module that owns the first weight that a module owns; "?" if none does."""
        return next((self._names[id(values)] for values in weights if id(values) in self._names), "?")

    def owns(self, *weights):
        """Return whether all weights (ignoring None) live as long as the model; only then can their ids be keys."""
        return all(values is None or id(values) in self._names for values in weights)

    def variants(self, weight, bias, transposed):
        """Return the dict of a layer's weight variants; a new one for weights that no module owns."""
        # A weight may be shared with a layer that is the transpose of this one.
        key = (id(weight), id(bias), transposed)
        return self._variants.setdefault(key, {}) if self.owns(weight, bias) else {}

    def thirds(self, weight):
        """Return a weight in three parts, which are the same tensors in every batch so that they keep variants."""
        key = ("thirds", id(weight))
        if key not in self._variants:
            self._variants[key] = [part.detach() for part in weight.chunk(3)]
            self._names.update({id(part): self.name_of(weight) for part in self._variants[key]})
        return self._variants[key]
