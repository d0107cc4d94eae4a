"""The usual research steps, written plainly: what the scripts of the field's papers do in an iteration.

Opponents for `race.py` that know nothing of Sparring, a family a file. The mathematics is that of our methods; the habits
are the scripts': `loss.backward()` inside the attack, which computes weight gradients and throws them away, tensors in NCHW
and float32, labels smoothed through NumPy, images cropped and flipped one by one, predictions of the same images computed
again, loss and accuracy fetched after every step. Which of them a family has, its file says.
Left out, in their favour: data loaders, prints, permutations of the whole training set between epochs, and forwards whose
only use is a line in a log.
"""
