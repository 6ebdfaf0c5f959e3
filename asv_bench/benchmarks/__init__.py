"""Speed of fastloss over its commits, measured by asv."""
