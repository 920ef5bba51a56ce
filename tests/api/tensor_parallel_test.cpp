#include "layer_support.h"
