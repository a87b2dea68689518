"""
Compare three methods
=====================

The same space, data and budget; the methods differ alone.
"""

# %%

import matplotlib.pyplot as plt

import fastnas

config = fastnas.SearchConfig(channels=4, cells=1, epochs=8, batch_size=32, train_fraction=0.4, alpha_lr=0.03)
training = fastnas.RetrainConfig(channels=4, cells=1, epochs=4, batch_size=32)
found = {}
for method in ("darts", "single_darts", "gdas"):
    found[method] = fastnas.search("nasbench201", method, "digits", config)
    trained = fastnas.retrain(found[method].genotype, "digits", training)
    print(f"{method:13}{trained.test_accuracy:.1%}  {found[method].genotype}")

# %%
# How decided is alpha? The largest entropy of five candidates is ln 5 = 1.61 nats. A search of so few steps is hardly
# decided, and one seed says little about a method.

figure, (losses, entropies) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for method, result in found.items():
    epochs = [record["epoch"] + 1 for record in result.history]
    losses.plot(epochs, [record["inner_loss"] for record in result.history], label=method)
    entropies.plot(epochs, [record["entropy"]["normal"] for record in result.history])
losses.set(xlabel="epoch", ylabel="training loss (nats)")
entropies.set(xlabel="epoch", ylabel="entropy of alpha (nats)")
losses.legend()
plt.show()
