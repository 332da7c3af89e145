//! The page's structure; what it looks like, a person judges.

use super::*;
