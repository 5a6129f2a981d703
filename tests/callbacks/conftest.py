"""Make `fit` known to the tests of the callbacks."""

import conftest_callbacks

fit = conftest_callbacks.fit
